"""What tests share: golden networks, cases of every operator, the simulator, makers of hostile files."""
