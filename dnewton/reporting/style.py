"""The style of the page and of pictures: colours for light and dark, told apart also by those who see fewer of them.

The colours are Okabe and Ito's (2008), on light ground darker and on dark ground lighter than theirs, so that lines
have a contrast of 3 to 1.
"""

LIGHT = ("#0072b2", "#d55e00", "#00855f", "#b0508f", "#a86f00", "#5b3fbf", "#787878", "#1b1b1b")
DARK = ("#56b4e9", "#ff9248", "#2cc79b", "#e5a0c8", "#f0e442", "#6f8cff", "#9a9a9a", "#ffffff")


def _variables(colours: tuple[str, ...]) -> str:
    return "".join(f"--c{k}:{value};" for k, value in enumerate(colours))


THEMES = (
    f":root{{color-scheme:light dark;{_variables(LIGHT)}"
    "--paper:#fff;--ink:#1b1b1b;--soft:#595959;--rule:#dcdcdc;--card:#f6f7f8}\n"
    "@media (prefers-color-scheme: dark){"
    f":root{{{_variables(DARK)}"
    "--paper:#16181b;--ink:#e9e9e9;--soft:#a9adb3;--rule:#3a3d42;--card:#1e2125}}\n"
)

PICTURES = (
    ".chart text{fill:var(--ink);font:12px system-ui,sans-serif}"
    ".chart .title{font-size:14px;font-weight:600}"
    ".chart .label,.chart .tx,.chart .ty{fill:var(--soft)}"
    ".chart .g{stroke:var(--rule);fill:none}.chart .axis{stroke:var(--soft);fill:none}"
    ".chart .l{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}"
    ".chart .m{stroke-width:1.4}.chart .band{stroke:none;opacity:.2}.chart .a{stroke:var(--paper);stroke-width:.6}"
    ".chart .tip{fill:transparent;stroke:none}.chart .tip:hover{stroke:var(--ink);stroke-width:1.2}"
    ".chart .cell{fill-opacity:.35;stroke:var(--paper);stroke-width:1}"
    ".chart .plan{fill-opacity:.75}"
    + "".join(
        f".chart .l.c{k},.chart .m.c{k}{{stroke:var(--c{k})}}"
        f".chart .m.c{k}:not([fill]),.chart .a.c{k},.chart .band.c{k},.chart .cell.c{k}{{fill:var(--c{k})}}"
        for k in range(8)
    )
    + "\n"
)

PAGE = """*{box-sizing:border-box}
body{margin:0 auto;padding:1rem clamp(.7rem,2.5vw,2.5rem) 4rem;max-width:100rem;background:var(--paper);
color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .6rem;border-bottom:1px solid var(--rule)}
h3{font-size:1rem;margin:1.2rem 0 .4rem;overflow-wrap:anywhere}
p{margin:.4rem 0;max-width:70rem;overflow-wrap:anywhere}.soft,figcaption{color:var(--soft)}figcaption{font-size:.85rem}
.charts{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
figure{margin:0;padding:.4rem;background:var(--card);border-radius:.4rem;min-width:0}
.chart{width:100%;height:auto;display:block}
.wide{overflow-x:auto;margin-top:.8rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child,.words td,.words th{text-align:left}.words td{white-space:normal;overflow-wrap:anywhere}
thead th{color:var(--soft);font-weight:600}.words td:first-child{white-space:nowrap}
pre{background:var(--card);padding:.7rem;overflow-x:auto;font-size:.82rem;border-radius:.4rem;max-height:30rem}
details{margin:.5rem 0}summary{cursor:pointer}
.warn{border-left:.25rem solid var(--c1);padding-left:.6rem}
@media (max-width:34rem){.words td,.words th{display:block;border:0;padding:.1rem 0}
.words td:first-child{color:var(--soft)}.words tr{border-bottom:1px solid var(--rule);display:block;padding:.2rem 0}}
@media print{.charts{grid-template-columns:1fr 1fr}figure{break-inside:avoid}}
"""
