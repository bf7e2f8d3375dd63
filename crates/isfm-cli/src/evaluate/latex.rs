//! The table of means for a paper.

use isfm_metrics::{Convention, Direction, Metric};

use super::report::{Mark, Report};

/// A booktabs table of the means, and one of each subset.
///
/// The best value of a column is bold, the second underlined; what a method lacks is `--`.
pub fn table(report: &Report) -> String {
    let mut out = String::from(
        "% Needs \\usepackage{booktabs} in the preamble. Best bold, second underlined.\n\
         % A table too wide for a column: \\resizebox{\\linewidth}{!}{\\input{...}} of graphicx.\n",
    );
    if report.convention != Convention::Released {
        out += &format!("% Values as {} defines them.\n", report.convention);
    }
    for (at, (name, part)) in report.parts().enumerate() {
        if at > 0 {
            out += "\n\\par\\bigskip\n";
        }
        one(&mut out, name, part);
    }
    out
}

fn one(out: &mut String, name: &str, report: &Report) {
    let scored = report.scored();
    for method in report.methods.iter().filter(|method| method.images < scored) {
        let (name, images) = (line(&method.name), method.images);
        *out +=
            &format!("% {name} has {images} of {scored} pictures and is not marked or ranked.\n");
    }
    let columns = report.metrics.len() + 1;
    *out += &format!("\\begin{{tabular}}{{l{}}}\n\\toprule\n", "r".repeat(columns));
    if !name.is_empty() {
        let (all, name) = (columns + 1, escape(name));
        *out += &format!("\\multicolumn{{{all}}}{{c}}{{{name}, {scored} pairs}} \\\\\n\\midrule\n");
    }
    let arrow = |metric: &Metric| match metric.direction() {
        Direction::Higher => "$\\uparrow$",
        Direction::Lower => "$\\downarrow$",
    };
    let heads = report.metrics.iter().map(|m| format!(" & {} {}", escape(m.name()), arrow(m)));
    *out += "Method";
    heads.for_each(|head| *out += &head);
    *out += " & Avg.\\ rank $\\downarrow$ \\\\\n\\midrule\n";
    let marks: Vec<_> = report.metrics.iter().map(|&metric| report.marks(metric)).collect();
    let rank_marks = report.rank_marks();
    for (at, method) in report.methods.iter().enumerate() {
        *out += &escape(&method.name);
        for (&metric, marks) in report.metrics.iter().zip(&marks) {
            *out += &format!(" & {}", cell(report.mean(at, metric), 4, marks[at]));
        }
        *out += &format!(" & {} \\\\\n", cell(method.average_rank, 2, rank_marks[at]));
    }
    *out += "\\bottomrule\n\\end{tabular}\n";
}

/// A number with its mark, `--` where there is none.
pub fn cell(value: Option<f64>, digits: usize, mark: Option<Mark>) -> String {
    let Some(value) = value.filter(|value| !value.is_nan()) else { return "--".to_owned() };
    let size = match value.abs() {
        f64::INFINITY => "$\\infty$".to_owned(),
        size => format!("{size:.digits$}"),
    };
    // Nothing is −0.
    let sign = if value < 0. && size.contains(|c| c != '0' && c != '.') { "$-$" } else { "" };
    match mark {
        Some(Mark::Best) => format!("\\textbf{{{sign}{size}}}"),
        Some(Mark::Second) => format!("\\underline{{{sign}{size}}}"),
        None => format!("{sign}{size}"),
    }
}

/// Any text as part of a line of LaTeX.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '<' => out += "\\textless{}",
            '>' => out += "\\textgreater{}",
            '|' => out += "\\textbar{}",
            '`' => out += "\\textasciigrave{}",
            '"' => out += "{\\char`\\\"}",
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            // After the end of a row these are its options, and two hyphens are a dash.
            '[' | ']' | '*' | '-' => out.extend(['{', c, '}']),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Any text as part of a line: of a comment, for instance.
pub fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
