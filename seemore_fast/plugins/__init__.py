"""SeemoRe inside other tools: spandrel, BasicSR and its kin, the Hugging Face hub.  One module each.

Modules ``spandrel``, ``registries``, ``hub`` and ``vapoursynth``; ComfyUI's nodes are in the folder
``integrations/comfyui``.
"""
