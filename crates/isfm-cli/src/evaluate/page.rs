//! A page to look at the scores and the pictures: one file, no network.

use std::fmt::Write;

use isfm_metrics::{Direction, Metric};

use super::plot;
use super::report::{Mark, Outcome, Report, Scored};
use super::table::{number, rank};

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

/// Which values of a metric are good.
pub fn better(metric: Metric) -> &'static str {
    match metric.direction() {
        Direction::Higher => "higher is better",
        Direction::Lower => "lower is better",
    }
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
    let count = problems.len();
    let _ = write!(out, "<section id=problems><details><summary>{count} problems</summary><ul>");
    for problem in problems {
        let _ = write!(out, "<li>{}</li>", escape(&problem.to_string()));
    }
    *out += "</ul></details></section>\n";
}

/// The head of a column that sorts its table, first in the order given.
fn head(out: &mut String, label: &str, hint: &str, first: &str) {
    let (label, hint) = (escape(label), escape(hint));
    let _ = write!(
        out,
        "<th scope=col data-first={first}><button type=button title='{hint}'>{label}</button></th>"
    );
}

fn metric_heads(out: &mut String, report: &Report) {
    for &metric in &report.metrics {
        let higher = metric.direction() == Direction::Higher;
        let first = if higher { "descending" } else { "ascending" };
        head(out, metric.name(), better(metric), first);
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
        let (name, images) = (escape(&method.name), method.images);
        let _ = write!(
            out,
            "<tr><th scope=row class=c{}><i></i>{name}</th><td data-v='{images}'>{images}</td>",
            at % 8
        );
        for (&metric, marks) in report.metrics.iter().zip(&marks) {
            let value = method.mean.as_ref().and_then(|mean| mean.get(metric));
            cell(out, value, &number(value), marks[at]);
        }
        cell(out, method.average_rank, &rank(method.average_rank), rank_marks[at]);
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
            let (pair, method) = (escape(&pair.name), escape(&method.name));
            let _ = write!(
                out,
                "<tr id=v{at}-{place}><th scope=row><a href='#p{at}'>{pair}</a></th>\
                 <td>{method}</td>"
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
        let (name, (width, height)) = (escape(&pair.name), outcome.size);
        let _ = write!(
            out,
            "<article id=p{at}><h3>{name} <small>{width}×{height}</small></h3>\
             <div class=row style='--ratio:{width}/{height}'>"
        );
        figure(out, "visible", "Visible", "", &outcome.sources[0]);
        figure(out, "infrared", "Infrared", "", &outcome.sources[1]);
        methods(out, report, outcome);
        *out += "</div></article>\n";
    }
    *out += "</section>\n";
}

fn methods(out: &mut String, report: &Report, outcome: &Outcome) {
    for (at, (method, scored)) in report.methods.iter().zip(&outcome.methods).enumerate() {
        match scored {
            Ok(Scored { scores, picture }) => {
                let texts: Vec<_> = report.metrics.iter().map(|&m| number(scores.get(m))).collect();
                let score = format!(" <output data-all='{}'></output>", texts.join(" "));
                figure(out, &format!("m{at}"), &method.name, &score, picture);
            }
            Err(why) => {
                let (why, name) = (escape(why), escape(&method.name));
                let _ = write!(
                    out,
                    "<figure><div class='view none'>{why}</div>\
                     <figcaption>{name}</figcaption></figure>"
                );
            }
        }
    }
}

/// `score` is empty for a source: only results can be compared with something.
fn figure(out: &mut String, key: &str, name: &str, score: &str, uri: &str) {
    let (name, focus) = (escape(name), if score.is_empty() { "" } else { " tabindex=0" });
    let _ = write!(
        out,
        "<figure data-key={key}><div class=view{focus}>\
         <img alt='{name}' decoding=async src='{uri}'></div>\
         <figcaption>{name}{score}</figcaption></figure>"
    );
}
