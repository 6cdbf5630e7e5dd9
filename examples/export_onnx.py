"""Trains a classifier, exports it to ONNX, and uses it there: scaling and labels travel inside the file.

pip install 'dnewton[onnx]' onnxruntime
python examples/export_onnx.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from sklearn.datasets import load_iris

import dnewton as dn

data = load_iris()
names = data.target_names[data.target]  # labels may be words

net = dn.net([4], [dn.dense(10, "tanh"), dn.dense(3)], loss="cross_entropy")
model = dn.fit(net, data.data, names, data={"scale": "standardize"}, solver={"max_iterations": 20})

with tempfile.TemporaryDirectory() as folder:
    trained, exported = Path(folder, "iris.safetensors"), Path(folder, "iris.onnx")
    model.save(trained)
    subprocess.run([sys.executable, "-m", "dnewton.export", trained, "-o", exported], check=True)
    session = onnxruntime.InferenceSession(exported)

x = data.data.astype(np.float32)
results = dict(zip([out.name for out in session.get_outputs()], session.run(None, {"x": x}), strict=True))
label, probabilities = results["label"], results["probabilities"]

print("outputs:", list(results), "| first label:", label[0])
print(f"labels agree: {np.mean(label == model.predict(x)):.3f}, accuracy {np.mean(label == names):.3f}")
print(f"largest difference of probabilities: {np.abs(probabilities - model.predict_proba(x)).max():.1e}")
