"""The rules that every registered method and workload must keep, for our own and for a stranger's.

    python -m pytest --contract my_method

imports `my_method` and checks what it registers, in whichever paper; it works from any folder where ninefold is installed.
"""
