//! A page to look at the scores and the pictures: one file, no network.

use std::fmt::Write;

use isfm_metrics::{Direction, Metric, Scores};

use super::plot;
use super::report::{Mark, Outcome, Report};
use super::table::number;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Text as part of HTML, quoted attributes included.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

pub fn html(report: &Report) -> String {
    let mut out = String::new();
    let title = format!("{} methods on {} pairs", report.methods.len(), report.scored());
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content='width=device-width, initial-scale=1'>\
         <title>Fusion scores: {title}</title><link rel=icon href='data:,'>\
         <style>{STYLE}</style></head>\n<body><header><h1>Fusion scores</h1><p>{title}</p>\
         <nav><a href='#means'>Means</a> <a href='#distributions'>Distributions</a> \
         <a href='#values'>Values</a> <a href='#pictures'>Pictures</a></nav>\
         <button id=theme type=button>Light or dark</button></header>\n<main>"
    );
    problems(&mut out, report);
    means(&mut out, report);
    out += "<section id=distributions><h2>Distributions</h2><p>A point is a picture; the box holds \
            the middle half of them with the median in it, the diamond is the mean.</p>\
            <div class=plots>";
    for &metric in &report.metrics {
        out += &plot::svg(report, metric);
    }
    out += "</div></section>\n";
    values(&mut out, report);
    pictures(&mut out, report);
    let _ = write!(out, "</main>\n<script>{SCRIPT}</script></body></html>\n");
    out
}

fn problems(out: &mut String, report: &Report) {
    let problems = report.problems();
    if problems.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "<section id=problems><details><summary>{} problems</summary><ul>",
        problems.len()
    );
    for problem in problems {
        let _ = write!(out, "<li>{}</li>", escape(&problem.to_string()));
    }
    *out += "</ul></details></section>\n";
}

/// The head of a column that sorts its table, first in the order given.
fn head(out: &mut String, label: &str, hint: &str, first: &str) {
    let _ = write!(
        out,
        "<th scope=col data-first={first}><button type=button title='{}'>{}</button></th>",
        escape(hint),
        escape(label)
    );
}

fn metric_heads(out: &mut String, report: &Report) {
    for metric in &report.metrics {
        let (hint, first) = match metric.direction() {
            Direction::Higher => ("higher is better", "descending"),
            Direction::Lower => ("lower is better", "ascending"),
        };
        head(out, metric.name(), hint, first);
    }
}

/// A number, with all its digits for the script that sorts.
fn cell(out: &mut String, value: Option<f64>, text: &str, mark: Option<Mark>) {
    let class = match mark {
        Some(Mark::Best) => " class=best",
        Some(Mark::Second) => " class=second",
        None => "",
    };
    let value = match value {
        Some(v) if v == f64::INFINITY => "Infinity".to_owned(),
        Some(v) if v == f64::NEG_INFINITY => "-Infinity".to_owned(),
        Some(v) if !v.is_nan() => v.to_string(),
        _ => String::new(),
    };
    let _ = write!(out, "<td data-v='{value}'{class}>{text}</td>");
}

fn means(out: &mut String, report: &Report) {
    *out += "<section id=means><h2>Means</h2><p>The <b class=best>best</b> and the \
             <span class=second>second best</span> of each column. ";
    let ranked: Vec<_> = report.ranked.iter().map(|m| m.name()).collect();
    if !ranked.is_empty() {
        let ranked = escape(&ranked.join(", "));
        let _ = write!(out, "Avg. rank is the mean place over {ranked}. ");
    }
    *out += "A head sorts by its column.</p>\
             <div class=scroll><table class=sortable><thead><tr>";
    head(out, "Method", "", "ascending");
    head(out, "Images", "how many it was scored on", "descending");
    metric_heads(out, report);
    head(out, "Avg. rank", "lower is better", "ascending");
    *out += "</tr></thead><tbody>";
    let marks: Vec<_> = report.metrics.iter().map(|&m| report.marks(m)).collect();
    let rank_marks = report.rank_marks();
    for (at, method) in report.methods.iter().enumerate() {
        let _ = write!(
            out,
            "<tr><th scope=row class=c{}><i></i>{}</th><td data-v='{}'>{}</td>",
            at % 8,
            escape(&method.name),
            method.images,
            method.images
        );
        for (&metric, marks) in report.metrics.iter().zip(&marks) {
            let value = method.mean.as_ref().and_then(|mean| mean.get(metric));
            cell(out, value, &number(value), marks[at]);
        }
        let rank = method.average_rank;
        let text = rank.map_or("–".to_owned(), |r| format!("{r:.2}"));
        cell(out, rank, &text, rank_marks[at]);
        *out += "</tr>";
    }
    *out += "</tbody></table></div></section>\n";
}

fn values(out: &mut String, report: &Report) {
    *out += "<section id=values><h2>Values</h2><div class='scroll tall'>\
             <table class=sortable><thead><tr>";
    head(out, "Picture", "", "ascending");
    head(out, "Method", "", "ascending");
    metric_heads(out, report);
    *out += "</tr></thead><tbody>";
    for (at, pair) in report.pairs.iter().enumerate() {
        let Ok(outcome) = &pair.outcome else { continue };
        for (place, (method, scored)) in report.methods.iter().zip(&outcome.methods).enumerate() {
            let Ok(scored) = scored else { continue };
            let _ = write!(
                out,
                "<tr id=v{at}-{place}><th scope=row><a href='#p{at}'>{}</a></th><td>{}</td>",
                escape(&pair.name),
                escape(&method.name)
            );
            for &metric in &report.metrics {
                let value = scored.scores.get(metric);
                cell(out, value, &number(value), None);
            }
            *out += "</tr>";
        }
    }
    *out += "</tbody></table></div></section>\n";
}

fn pictures(out: &mut String, report: &Report) {
    *out += "<section id=pictures><h2>Pictures</h2><form id=options>\
             <label>On hover or tap, the difference to \
             <select id=reference><option value=visible>the visible picture\
             <option value=infrared>the infrared picture";
    for (at, method) in report.methods.iter().enumerate() {
        let _ = write!(out, "<option value=m{at}>{}", escape(&method.name));
    }
    *out += "</select></label> <label>times <select id=gain><option>1<option selected>2<option>4\
             <option>8</select></label> <label>Below each result <select id=shown>";
    for metric in &report.metrics {
        let selected = if *metric == Metric::Qabf { " selected" } else { "" };
        let _ = write!(out, "<option{selected}>{}", escape(metric.name()));
    }
    *out += "</select></label></form><p>The pictures are reduced and compressed, and differences are \
             of these, in luminance: they show where methods differ, the tables by how much.</p>\n";
    for (at, pair) in report.pairs.iter().enumerate() {
        let Ok(outcome) = &pair.outcome else { continue };
        let (width, height) = outcome.size;
        let _ = write!(
            out,
            "<article id=p{at}><h3>{} <small>{width}×{height}</small></h3>\
             <div class=row style='--ratio:{width}/{height}'>",
            escape(&pair.name)
        );
        figure(out, report, "visible", "Visible", None, &outcome.sources[0]);
        figure(out, report, "infrared", "Infrared", None, &outcome.sources[1]);
        methods(out, report, outcome);
        *out += "</div></article>\n";
    }
    *out += "</section>\n";
}

fn methods(out: &mut String, report: &Report, outcome: &Outcome) {
    for (at, (method, scored)) in report.methods.iter().zip(&outcome.methods).enumerate() {
        match scored {
            Ok(scored) => {
                let key = format!("m{at}");
                figure(out, report, &key, &method.name, Some(&scored.scores), &scored.picture);
            }
            Err(why) => {
                let _ = write!(
                    out,
                    "<figure><div class='view none'>{}</div><figcaption>{}</figcaption></figure>",
                    escape(why),
                    escape(&method.name)
                );
            }
        }
    }
}

fn figure(
    out: &mut String,
    report: &Report,
    key: &str,
    name: &str,
    scores: Option<&Scores>,
    uri: &str,
) {
    let score = match scores {
        Some(scores) => {
            let texts: Vec<_> = report.metrics.iter().map(|&m| number(scores.get(m))).collect();
            format!(" <output data-all='{}'></output>", texts.join(" "))
        }
        None => String::new(),
    };
    // Only results can be compared with something.
    let focus = if scores.is_some() { " tabindex=0" } else { "" };
    let _ = write!(
        out,
        "<figure data-key={key}><div class=view{focus}><img alt='{}' decoding=async src='{uri}'></div>\
         <figcaption>{}{score}</figcaption></figure>",
        escape(name),
        escape(name)
    );
}
