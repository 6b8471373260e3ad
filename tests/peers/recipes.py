"""Recipes on which our results are compared with mergekit's; models: base, a, b, c."""

_THREE = """models: [{model: a, parameters: {W: 0.3}}, {model: b, parameters: {W: 0.9}},
  {model: c, parameters: {W: 0.5}}]"""
_THREE = _THREE.replace("W", "weight")
_TWO = "models: [{model: a, parameters: {weight: 0.3}}, {model: b, parameters: {weight: 0.9}}]"
_PLAIN = "models: [{model: a}, {model: b}, {model: c}]"
_THIN = """models:
- {model: a, parameters: {weight: 0.3, density: 0.4, gamma: 0.1}}
- {model: b, parameters: {weight: 0.9, density: 0.6, gamma: 0.2}}
- {model: c, parameters: {weight: -0.5, density: 1.0}}"""
_TIES = _THIN.replace(", gamma: 0.1", "").replace(", gamma: 0.2", "")
_RANDOM = "models: [{model: a, parameters: {weight: 1.0, density: 0.5}}]"
_FULL = _TWO.replace("0.3", "0.3, density: 1.0").replace("0.9", "0.9, density: 1.0")
_T = "[{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}, {value: 0.5}]"


def _recipe(method: str, body: str, base: str | None = None, **parameters: object) -> str:
    lines = [f"merge_method: {method}", *([f"base_model: {base}"] if base else []), body]
    if parameters:
        values = (f"{key}: {str(v).lower() if isinstance(v, bool) else v}" for key, v in parameters.items())
        lines.append(f"parameters: {{{', '.join(values)}}}")
    return "\n".join(lines) + "\n"


DETERMINISTIC = {
    "linear": _recipe("linear", _THREE),
    "linear_raw": _recipe("linear", _TWO, normalize=False, int8_mask=True),
    "linear_gradient": _recipe("linear", _TWO.replace("0.3", "[0, 1]").replace("0.9", "[1, 0.2, 0.5]")),
    "linear_filters": _recipe(
        "linear",
        _TWO.replace("0.3", "[{filter: mlp, value: [0.2, 0.8]}, {filter: embed_tokens, value: 0.9}]"),
        weight=0.4,
    ),
    "passthrough": _recipe("passthrough", "models: [{model: a, parameters: {scale: 0.5}}]"),
    "slices": """merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 3]}]
- sources: [{model: b, layer_range: [1, 4], parameters: {scale: [{filter: o_proj, value: [0, 1]}, {value: 1}]}}]
""",
    "slices_slerp": """merge_method: slerp
base_model: a
slices:
- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3]}]
  parameters: {t: [0.1, 0.9]}
- sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]
parameters: {t: [0.2, 0.5]}
""",
    "slerp": _recipe("slerp", "models: [{model: a}, {model: b}]", "a", t=0.3),
    "slerp_gradient": _recipe("slerp", "models: [{model: base}, {model: a}]", "base", t=_T),
    "nuslerp": _recipe("nuslerp", _TWO),
    "nuslerp_base": _recipe("nuslerp", _TWO, "base"),
    "nuslerp_row_wise": _recipe("nuslerp", _TWO, nuslerp_flatten=False, nuslerp_row_wise=True),
    "nuslerp_not_row_wise": _recipe("nuslerp", _TWO, nuslerp_flatten=False),
    "multislerp": _recipe("multislerp", _THREE),
    "multislerp_base": _recipe("multislerp", _THREE, "base"),
    "multislerp_raw": _recipe("multislerp", _THREE, normalize_weights=False),
    "karcher": _recipe("karcher", _PLAIN),
    "task_arithmetic": _recipe("task_arithmetic", _THREE, "base"),
    "task_arithmetic_lambda": _recipe("task_arithmetic", _TWO, "base", **{"lambda": 0.7, "normalize": True}),
    "ties": _recipe("ties", _TIES, "base"),
    "ties_raw": _recipe("ties", _TIES, "base", **{"normalize": False, "lambda": 1.3}),
    "ties_rescale": _recipe("ties", _TIES, "base", rescale=True),
    "ties_gradient": _recipe("ties", _PLAIN, "base", weight=0.5, density=[0.2, 0.9]),
    "dare_linear_full": _recipe("dare_linear", _FULL, "base"),
    "dare_ties_full": _recipe("dare_ties", _FULL, "base"),
    "della_full": _recipe("della", _FULL, "base"),
    "della_linear_full": _recipe("della_linear", _FULL, "base"),
    "breadcrumbs": _recipe("breadcrumbs", _THIN, "base"),
    "breadcrumbs_ties": _recipe("breadcrumbs_ties", _THIN, "base"),
    "model_stock": _recipe("model_stock", _PLAIN, "base"),
    "model_stock_filter_wise": _recipe("model_stock", _PLAIN, "base", filter_wise=True),
    "nearswap": _recipe("nearswap", "models: [{model: base}, {model: a}]", "base", t=0.02),
    "sce": _recipe("sce", _PLAIN, "base", select_topk=0.3),
    "sce_all": _recipe("sce", _PLAIN, "base"),
    "arcee_fusion": _recipe("arcee_fusion", "models: [{model: base}, {model: a}]", "base"),
}

RANDOM = {
    method: _recipe(method, _RANDOM, "base")
    for method in ("dare_linear", "dare_ties", "della", "della_linear")
} | {
    f"{method}_raw": _recipe(method, _RANDOM, "base", rescale=False)
    for method in ("dare_linear", "della_linear")
}
