"""``runhold demo``: one real run, from the row that a user inserts to the e-mail that another person approved.

``stage`` puts up the parts (stack, model, mail server, worker process), ``cast`` the people, ``gate`` asks for the
decision, ``play`` tells what happens.
"""

from runhold.cli.demo.command import demo

__all__ = ["demo"]
