"""Images as vectors, to be compared with each other."""

from dynexport.tasks import Task

VECTORS = Task("toy", help="a vector of each image", output="embedding", gives="vectors")
TASKS = (VECTORS,)
