"""Pictures and videos in; overlays, parameters, meshes and videos out."""
