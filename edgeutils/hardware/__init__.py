"""Meters, traces and clocks: how joules are measured, and the virtual bench to learn it on."""
