"""The text of the C functions that exported files are made of; images are (C, H, W)."""

from __future__ import annotations

import re

TOP = """\
/* A model that dnewton {version} trained; C99, needs math.h alone (cc -std=c99 -O2 FILE.c -lm).

   int {name}_predict(const {real} *x, {real} *out);

   x: {inputs} numbers ({shape}), unscaled, as the training data had them, images channel by channel.
   out: {outputs} number(s), {meaning}. Returns {returned}.
   Takes {work} bytes of the stack and may be called by several threads at once; with -DDNEWTON_STATIC
   the buffers are static instead, for one call at a time. With -DDNEWTON_MAIN the file is a program: numbers
   from standard input, {inputs} per sample, and a line per sample to standard output. */
#include <math.h>

enum {{ {name}_INPUTS = {inputs}, {name}_OUTPUTS = {outputs} }};
int {name}_predict(const {real} *x, {real} *out);
"""

WINDOW = """\
struct window { int c, h, w, oc, oh, ow, kh, kw, sh, sw, ph, pw; };
"""

_DENSE = """\
static void dense(const float *x, const float *weight, const float *bias, int inputs, int outputs, float *y) {
  int i, o;
  for (o = 0; o < outputs; o++) {
    float s = 0;
    for (i = 0; i < inputs; i++) s += weight[o * inputs + i] * x[i];
    y[o] = s + bias[o];
  }
}
"""

_CONV = """\
static void conv(const float *x, const float *weight, const float *bias, const struct window *g, float *y) {
  int o, c, i, j, a, b;
  for (o = 0; o < g->oc; o++)
    for (i = 0; i < g->oh; i++)
      for (j = 0; j < g->ow; j++) {
        float s = 0;
        for (c = 0; c < g->c; c++)
          for (a = 0; a < g->kh; a++) {
            const int r = i * g->sh + a - g->ph;
            if (r < 0 || r >= g->h) continue;
            for (b = 0; b < g->kw; b++) {
              const int q = j * g->sw + b - g->pw;
              if (q >= 0 && q < g->w)
                s += weight[((o * g->c + c) * g->kh + a) * g->kw + b] * x[(c * g->h + r) * g->w + q];
            }
          }
        y[(o * g->oh + i) * g->ow + j] = s + bias[o];
      }
}
"""

_MAXPOOL = """\
static void maxpool(const float *x, const struct window *g, float *y) {
  int c, i, j, a, b;
  for (c = 0; c < g->c; c++)
    for (i = 0; i < g->oh; i++)
      for (j = 0; j < g->ow; j++) {
        float best = -HUGE_VALF;
        for (a = 0; a < g->kh; a++)
          for (b = 0; b < g->kw; b++) {
            const int r = i * g->sh + a - g->ph, q = j * g->sw + b - g->pw;
            if (r >= 0 && r < g->h && q >= 0 && q < g->w && !(x[(c * g->h + r) * g->w + q] <= best))
              best = x[(c * g->h + r) * g->w + q];
          }
        y[(c * g->oh + i) * g->ow + j] = best;
      }
}
"""

_AVGPOOL = """\
static void avgpool(const float *x, const struct window *g, float *y) { /* padding counts as zeros */
  int c, i, j, a, b;
  for (c = 0; c < g->c; c++)
    for (i = 0; i < g->oh; i++)
      for (j = 0; j < g->ow; j++) {
        float s = 0;
        for (a = 0; a < g->kh; a++)
          for (b = 0; b < g->kw; b++) {
            const int r = i * g->sh + a - g->ph, q = j * g->sw + b - g->pw;
            if (r >= 0 && r < g->h && q >= 0 && q < g->w) s += x[(c * g->h + r) * g->w + q];
          }
        y[(c * g->oh + i) * g->ow + j] = s / (float)(g->kh * g->kw);
      }
}
"""

_GLOBAL_AVGPOOL = """\
static void global_avgpool(const float *x, int channels, int positions, float *y) {
  int c, i;
  for (c = 0; c < channels; c++) {
    float s = 0;
    for (i = 0; i < positions; i++) s += x[c * positions + i];
    y[c] = s / (float)positions;
  }
}
"""

_ADD = """\
static void add(const float *a, const float *b, int n, float *y) {
  int i;
  for (i = 0; i < n; i++) y[i] = a[i] + b[i];
}
"""

_LARGEST = """\
static int largest(const float *z, int n) {
  int i, best = 0;
  for (i = 1; i < n; i++)
    if (z[i] > z[best]) best = i;
  return best;
}
"""

_APPLY = """\
static void apply(float (*f)(float), float *z, int n) {
  int i;
  for (i = 0; i < n; i++) z[i] = f(z[i]);
}
"""

ACTIVATIONS = {
    "relu": "s < 0 ? 0 : s",
    "tanh": "tanhf(s)",
    "sigmoid": "0.5f * (1 + tanhf(0.5f * s))",
    "softplus": "(s > 0 ? s : 0) + log1pf(expf(-fabsf(s)))",
    "silu": "s * (0.5f * (1 + tanhf(0.5f * s)))",
    "gelu": "s * (0.5f * (1 + erff(s * 0.707106781f)))",
    "sin": "sinf(s)",
    "elu": "s > 0 ? s : expm1f(s)",
}

MAIN = """\
#ifdef DNEWTON_MAIN
#include <stdio.h>

int main(void) {{
  static {real} x[{name}_INPUTS], out[{name}_OUTPUTS];
  for (;;) {{
    int i, label;
    for (i = 0; i < {name}_INPUTS && scanf("{scan}", &x[i]) == 1; i++) {{
    }}
    if (i == 0 && feof(stdin)) return 0;
    if (i < {name}_INPUTS) {{
      fprintf(stderr, "{name}: the last sample is not %d numbers\\n", (int){name}_INPUTS);
      return 1;
    }}
    label = {name}_predict(x, out);
    {label}
    for (i = 0; i < {name}_OUTPUTS; i++) printf("%s{print}", {first}, out[i]);
    printf("\\n");
  }}
}}
#endif
"""

_FUNCTIONS = {
    "dense": _DENSE,
    "conv": _CONV,
    "maxpool": _MAXPOOL,
    "avgpool": _AVGPOOL,
    "global_avgpool": _GLOBAL_AVGPOOL,
    "add": _ADD,
    "largest": _LARGEST,
    "apply": _APPLY,
    **{f"act_{name}": f"static float act_{name}(float s) {{ return {f}; }}\n" for name, f in ACTIVATIONS.items()},
}


def used_by(body: str) -> list[str]:
    """The functions that a text names: others would be unused, which compilers warn of."""
    return [text for name, text in _FUNCTIONS.items() if re.search(rf"\b{name}\b[(,]", body)]
