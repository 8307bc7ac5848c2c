"""ONNX's reference evaluator as a runtime: in Python, slow, and by the book."""

from dynexport.runtimes import NO_INPUTS, Library, Runtime


class ToyRunner:
    def __init__(self, model, threads, profile):
        import onnx.inliner
        import onnx.shape_inference
        from onnx.reference import ReferenceEvaluator

        graph = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        plain = onnx.inliner.inline_local_functions(graph)
        self._model = ReferenceEvaluator(onnx.shape_inference.infer_shapes(plain))

    def run(self, images, further=NO_INPUTS):
        answers = self._model.run(None, {"images": images, **further})
        return dict(zip(self._model.output_names, answers, strict=True))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._model = None


LIBRARY = Library("toy", module="onnx.reference", note="runs models in Python")
RUNTIMES = (Runtime("toy", LIBRARY, open=ToyRunner),)
