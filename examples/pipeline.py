"""A classifier in scikit-learn's pipeline, its settings searched by cross-validation.

python examples/pipeline.py
"""

from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from dnewton import DNewtonClassifier

x, y = load_wine(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)

pipeline = make_pipeline(PCA(8, whiten=True), DNewtonClassifier(max_iter=30, random_state=0))
search = GridSearchCV(
    pipeline,
    {"dnewtonclassifier__hidden_layers": [(8,), (16,)], "dnewtonclassifier__C": [0.1, 1.0]},
    cv=3,
)
search.fit(x_train, y_train)

print("best settings:", search.best_params_)
print(f"accuracy by cross-validation {search.best_score_:.3f}, on the test part {search.score(x_test, y_test):.3f}")
print("probabilities of the first sample:", search.predict_proba(x_test[:1]).round(3))
