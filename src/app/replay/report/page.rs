//! The page around a report or plot: one file, nothing loaded from anywhere, for light and dark
//! screens and for paper.
use super::svg::escape;
use crate::base::words::Lang;

/// Colours and lines of drawings; the palette is Okabe and Ito's, which most colour-blind people can
/// tell apart.
pub const DRAWING: &str = "
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5a636e;--rule:#d3d8de;--paper:#ffffff;--panel:#f5f6f8;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b35c8f;--c4:#b07b00;--c5:#3a8fc0;--band:#0072b222;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a7b0ba;--rule:#3b434d;--paper:#14181d;--panel:#1c2228;
--c0:#56b4e9;--c1:#f28b4b;--c2:#3cc79a;--c3:#e4a3c8;--c4:#f0c04a;--c5:#8fd0f5;--band:#56b4e933;--bad:#ff8a80}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--rule:#bbb;--paper:#fff;--panel:#fff;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b35c8f;--c4:#b07b00;--c5:#3a8fc0;--band:#0072b222;--bad:#b3261e}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
text{font:12px system-ui,-apple-system,'Segoe UI','Noto Sans','Noto Sans CJK SC',sans-serif;fill:var(--ink)}
text.soft{fill:var(--soft)}text.small{font-size:11px;fill:var(--soft)}text.name{font-weight:600;font-size:13px}
text.head{font-weight:600;font-size:14px}text.in{font-size:10.5px;fill:var(--paper)}
text.t0{fill:var(--c0)}text.t1{fill:var(--c1)}text.t2{fill:var(--c2)}
.paper{fill:var(--paper)}.panel{fill:var(--panel)}
line.grid{stroke:var(--rule);stroke-width:1}line.edge{stroke:var(--soft);stroke-width:1}
line.limit{stroke:var(--c1);stroke-width:1.5;stroke-dasharray:6 3}
line.now{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:2 3}line.best{stroke:var(--ink);stroke-width:1.5}
path{fill:none;stroke-width:2;stroke-linejoin:round}
path.c0{stroke:var(--c0)}path.c1{stroke:var(--c1)}path.c2{stroke:var(--c2);stroke-dasharray:7 4}
path.limit{stroke:var(--c1);stroke-width:1.5;stroke-dasharray:6 3}
.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}.f4{fill:var(--c4)}.f5{fill:var(--c5)}
.seen{fill:var(--c0);opacity:.45}.band{fill:var(--band)}.dwell{fill:var(--c4);opacity:.75}
.open{fill:var(--bad)}.tail{fill:var(--bad);opacity:.35}.truth{fill:var(--c2)}.blind{fill:var(--soft);opacity:.3}
.health{fill:var(--c3);opacity:.8}.well{fill:var(--c2);opacity:.35}
.ring{fill:var(--paper);stroke:var(--ink);stroke-width:2}
";

const PAGE: &str = "
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI','Noto Sans','Noto Sans CJK SC',sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 6px;padding-top:14px;border-top:1px solid var(--rule)}
h3{font-size:15px;margin:18px 0 6px}p{margin:6px 0}.soft{color:var(--soft)}
ul.news{list-style:none;padding:0;margin:10px 0}ul.news li{padding:9px 12px;margin:6px 0;background:var(--panel);border-left:4px solid var(--bad);border-radius:4px}
ul.news li.calm{border-color:var(--c2)}ul.news li.near{border-color:var(--c4)}
table{border-collapse:collapse;margin:8px 0;width:100%;font-size:14px}
th,td{text-align:left;vertical-align:top;padding:5px 10px 5px 0;border-bottom:1px solid var(--rule)}
th{color:var(--soft);font-weight:600}td.n,th.n{text-align:right;padding-right:18px;font-variant-numeric:tabular-nums;white-space:nowrap}
.scroll{overflow-x:auto}svg{display:block;width:100%;min-width:760px;height:auto;margin:6px 0}
a{color:var(--c0)}b.bad{color:var(--bad)}b.good{color:var(--c2)}tr.best td{font-weight:700}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;color:var(--soft);margin:6px 0}
.key i{display:inline-block;width:14px;height:10px;margin-right:6px;border-radius:2px;vertical-align:baseline}
@media print{main{max-width:none;padding:0}h2{break-after:avoid}svg,table,li{break-inside:avoid}.scroll{overflow:visible}svg{min-width:0}}
";

/// A whole page. `body` is markup.
pub fn page(lang: Lang, title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{}</title>\n<style>{DRAWING}{PAGE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        lang.tag(),
        escape(title)
    )
}
