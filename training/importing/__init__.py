"""Imports networks that were trained elsewhere, and seals them as versions of a model.

Modules in the order in which an import uses them:

1. `labels`, `presets`, `input_options`: the class names, and the input as the user describes it.
2. `onnx_network` (ONNX files) or `torch_networks` (torch weights): from the file to an
   `ImportCandidate` (`candidate`), with one entry in the `import_report` for each decision.

   - ONNX: `foreign_file` parses the file, and `binary_scores` splits a single Sigmoid. `head`
     finds the scores (through `score_transforms`), and `reference_model` runs the file unchanged.
     `served_graph` builds the graph to serve. It uses `foreign_graph` (opset, batch, folding with
     `affine`), `input_spec` and `assembly`.
   - torch: `torchvision_weights` identifies the file.
3. `verification`: checks the candidate against its reference on `probes` (`parity_checks`) and on
   labelled images (`accuracy_checks`).
4. `publication`: seals the candidate as the next version of the model.
"""
