"""An agent that writes a licence-compliance document for a Python environment. Start with ``agent.py``."""
