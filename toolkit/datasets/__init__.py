"""Build image datasets from many sources and audit them. The build scripts of the examples use parts of this tool."""
