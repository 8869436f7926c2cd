"""The C++ bridge to ns-3 and what builds it. bridge.cpp is GPL-2.0-only, as ns-3 is; see NOTICE. Nothing is built on import."""
