"""A DeiT that can be exported for a task of its own, as a plugin."""

import dataclasses

from dynexport.models import Output, deit
from dynexport.tasks.classify import CLASSIFY
from dynexport.tasks.toy import VECTORS


@dataclasses.dataclass(frozen=True)
class ToyConfig(deit.DeiTConfig):
    task: str = CLASSIFY.name


class Toy(deit.DynamicDeiT):
    def forward(self, images):
        found = super().forward(images)
        if self.config.task == VECTORS.name:
            return Output({VECTORS.output: self.norm(found.tokens.x[:, 0])}, found.tokens)
        return found


def read_config(shapes, hints):
    read = deit.read_config(shapes, hints)
    return ToyConfig(**dataclasses.asdict(read), task=hints.get("task") or CLASSIFY.name)


FAMILY = dataclasses.replace(
    deit.FAMILY,
    name="toy-deit",
    model=Toy,
    config=ToyConfig,
    variants={},
    read_config=read_config,
    tasks=(CLASSIFY, VECTORS),
)
