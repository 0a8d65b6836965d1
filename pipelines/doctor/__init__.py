"""The preflight: what the ranks are, how fast each device and each link is, and which of them is not right.

examine.py      the examination on every rank, from joining to the finished file
facts.py        what a rank knows of itself: device, versions, environment variables
topology.py     how a host's GPUs are linked, from amd-smi, rocm-smi or nvidia-smi
links.py        matrix product, collectives and pairs, measured
schedule.py     which ranks are measured together
watchdog.py     names the ranks that do not answer
examination.py  what all of them found, as it is written to doctor.json
findings.py     what is wrong with it and how to mend it: pure functions, of which device_findings.py and
                link_findings.py hold most; phrases.py is how they speak
text.py         both in a terminal
"""
