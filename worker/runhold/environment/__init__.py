"""What comes from outside the process: variables of the environment, the file ``.env``, proxies, the system.

Whatever is wrong with it is reported in one sentence that names the variable or the line, and never shows the value:
nobody can know whether it is a secret that was pasted into the wrong place.
"""
