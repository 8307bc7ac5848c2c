"""A class for each image: what most models are trained for."""

from dynexport.tasks import LOGITS, Task

CLASSIFY = Task("classify", help="a logit for each class", output=LOGITS, gives="classes")
TASKS = (CLASSIFY,)
