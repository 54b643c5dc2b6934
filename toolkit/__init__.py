"""The core that the scripts are built on, and the tools: one folder each."""
