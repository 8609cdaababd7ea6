// Where branches meet again: the nearest step that every way out of a branch leads through.
#include <algorithm>
#include <vector>

#include "cudasim/ptx/assemble.h"

namespace cudasim::ptx {
namespace {

struct Graph {
  std::vector<int> begin;                    // first step of each basic block
  std::vector<int> block_of;                 // of each step
  std::vector<std::vector<int>> next, last;  // blocks after and before; the exit is block begin.size()
};

Graph graph_of(const Program& p) {
  const int steps = (int)p.steps.size();
  std::vector<bool> leads(steps + 1, false);
  leads[0] = true;
  for (int i = 0; i < steps; ++i) {
    if (p.control[i] == kBranch) leads[p.steps[i].target] = true;
    if (p.control[i] == kBranch || p.control[i] == kReturn) leads[i + 1] = true;
  }
  Graph g;
  g.block_of.resize(steps);
  for (int i = 0; i < steps; ++i) {
    if (leads[i]) g.begin.push_back(i);
    g.block_of[i] = (int)g.begin.size() - 1;
  }
  const int blocks = (int)g.begin.size();
  g.next.resize(blocks + 1);
  g.last.resize(blocks + 1);
  auto link = [&](int from, int step) {
    const int to = step < steps ? g.block_of[step] : blocks;
    g.next[from].push_back(to);
    g.last[to].push_back(from);
  };
  for (int b = 0; b < blocks; ++b) {
    const int end = b + 1 < blocks ? g.begin[b + 1] : steps;
    const Step& s = p.steps[end - 1];
    const Control control = p.control[end - 1];
    if (control == kBranch) link(b, s.target);
    if (control == kReturn) link(b, steps);
    if (s.guarded || (control != kBranch && control != kReturn)) link(b, end);
  }
  return g;
}

// Immediate post-dominators, by Cooper, Harvey and Kennedy's iteration on the reversed graph.
std::vector<int> post_dominators(const Graph& g) {
  const int exit = (int)g.begin.size();
  std::vector<int> order, rank(exit + 1, -1);
  std::vector<bool> seen(exit + 1, false);
  std::vector<std::pair<int, size_t>> path{{exit, 0}};
  seen[exit] = true;
  while (!path.empty()) {
    auto& [block, at] = path.back();
    if (at < g.last[block].size()) {
      const int before = g.last[block][at++];
      if (!seen[before]) seen[before] = true, path.push_back({before, 0});
    } else {
      rank[block] = (int)order.size();
      order.push_back(block);
      path.pop_back();
    }
  }
  std::vector<int> found(exit + 1, -1);
  found[exit] = exit;
  for (bool changed = true; changed;) {
    changed = false;
    for (auto block = order.rbegin(); block != order.rend(); ++block) {
      if (*block == exit) continue;
      int best = -1;
      for (const int after : g.next[*block]) {
        if (found[after] < 0) continue;
        int a = after, b = best;
        if (b >= 0)
          while (a != b) {
            while (rank[a] < rank[b]) a = found[a];
            while (rank[b] < rank[a]) b = found[b];
          }
        best = a;
      }
      if (best >= 0 && found[*block] != best) found[*block] = best, changed = true;
    }
  }
  return found;
}

}  // namespace

void find_joins(Program& p) {
  const Graph g = graph_of(p);
  const std::vector<int> join = post_dominators(g);
  const int exit = (int)g.begin.size();
  for (size_t i = 0; i < p.steps.size(); ++i) {
    if (p.control[i] != kBranch) continue;
    const int block = join[g.block_of[i]];
    p.steps[i].join = block < 0 || block == exit ? (int)p.steps.size() : g.begin[block];
  }
}

}  // namespace cudasim::ptx
