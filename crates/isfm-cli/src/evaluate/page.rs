//! A page to look at the scores and the pictures: one file, no network.

use isfm_metrics::{Convention, Direction, Metric};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::plot;
use super::report::{Mark, Outcome, Report, Scored};
use super::table::{interval, number, p_value, rank};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Which values of a metric are good.
pub fn better(metric: Metric) -> &'static str {
    match metric.direction() {
        Direction::Higher => "higher is better",
        Direction::Lower => "lower is better",
    }
}

pub fn html(report: &Report) -> String {
    let title = format!("{} methods on {} pairs", report.methods.len(), report.scored());
    // Scores of a file have none.
    let shown = report.pairs.iter().filter_map(|pair| pair.outcome.as_ref().ok());
    let shown = shown.flat_map(|outcome| &outcome.sources).any(|source| !source.is_empty());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Fusion scores: " (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Fusion scores" }
                    p { (title) }
                    nav {
                        a href="#means" { "Means" } " "
                        a href="#distributions" { "Distributions" } " "
                        a href="#values" { "Values" }
                        @if shown { " " a href="#pictures" { "Pictures" } }
                    }
                    button id="theme" type="button" { "Light or dark" }
                }
                main {
                    (problems(report))
                    (means(report))
                    section id="distributions" {
                        h2 { "Distributions" }
                        p {
                            "A point is a picture; the box holds the middle half of them with the \
                             median in it, the diamond is the mean."
                        }
                        div class="plots" {
                            @for &metric in &report.metrics { (plot::figure(report, metric)) }
                        }
                    }
                    (values(report, shown))
                    @if shown { (pictures(report)) }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string() + "\n"
}

fn problems(report: &Report) -> Markup {
    let problems = report.problems();
    html! {
        @if !problems.is_empty() {
            section id="problems" {
                details {
                    summary { (problems.len()) " problems" }
                    ul { @for problem in problems { li { (problem.to_string()) } } }
                }
            }
        }
    }
}

/// The head of a column that sorts its table, first in the order given.
fn head(label: &str, hint: &str, first: &str) -> Markup {
    html! {
        th scope="col" data-first=(first) { button type="button" title=(hint) { (label) } }
    }
}

fn metric_heads(report: &Report) -> Markup {
    let first = |metric: Metric| match metric.direction() {
        Direction::Higher => "descending",
        Direction::Lower => "ascending",
    };
    html! {
        @for &metric in &report.metrics { (head(metric.name(), better(metric), first(metric))) }
    }
}

/// A number, with all its digits for the script that sorts.
fn cell(value: Option<f64>, text: &str, mark: Option<Mark>, below: Option<String>) -> Markup {
    let class = match mark {
        Some(Mark::Best) => Some("best"),
        Some(Mark::Second) => Some("second"),
        None => None,
    };
    let value = match value {
        Some(v) if v == f64::INFINITY => "Infinity".to_owned(),
        Some(v) if v == f64::NEG_INFINITY => "-Infinity".to_owned(),
        Some(v) if !v.is_nan() => v.to_string(),
        _ => String::new(),
    };
    html! {
        td data-v=(value) class=[class] {
            (text)
            @if let Some(below) = below { small class="interval" { (below) } }
        }
    }
}

fn means(report: &Report) -> Markup {
    html! {
        section id="means" {
            h2 { "Means" }
            p {
                "The " b class="best" { "best" } " and the " span class="second" { "second best" }
                " of each column. " (ranked(report)) "A head sorts by its column."
                @if let Some(intervals) = &report.intervals {
                    " Below a mean is the interval that it lies in with " (intervals.level)
                    " %, by bootstrap over pictures."
                }
            }
            (means_table(report))
            @for (name, part) in report.parts().skip(1) {
                h3 { (name) " " small { (part.scored()) " pairs" } }
                @if part.ranked != report.ranked { p { (ranked(part)) } }
                (means_table(part))
            }
            (comparison(report))
        }
    }
}

fn ranked(report: &Report) -> Markup {
    let ranked: Vec<_> = report.ranked.iter().map(|m| m.name()).collect();
    html! {
        @if report.convention != Convention::Released {
            "Values as " (report.convention) " defines them. "
        }
        @if !ranked.is_empty() { "Avg. rank is the mean place over " (ranked.join(", ")) ". " }
    }
}

fn means_table(report: &Report) -> Markup {
    let marks: Vec<_> = report.metrics.iter().map(|&m| report.marks(m)).collect();
    let rank_marks = report.rank_marks();
    let mean = |at: usize, column: usize| {
        let value = report.mean(at, report.metrics[column]);
        let below = report.intervals.as_ref().map(|all| interval(all.bounds[at][column]));
        cell(value, &number(value), marks[column][at], below)
    };
    html! {
        div class="scroll" {
            table class="sortable" {
                thead {
                    tr {
                        (head("Method", "", "ascending"))
                        (head("Images", "how many it was scored on", "descending"))
                        (metric_heads(report))
                        (head("Avg. rank", "lower is better", "ascending"))
                    }
                }
                tbody {
                    @for (at, method) in report.methods.iter().enumerate() {
                        tr {
                            (method_head(at, &method.name))
                            td data-v=(method.images) { (method.images) }
                            @for column in 0..report.metrics.len() { (mean(at, column)) }
                            (cell(
                                method.average_rank, &rank(method.average_rank), rank_marks[at], None
                            ))
                        }
                    }
                }
            }
        }
    }
}

fn method_head(at: usize, name: &str) -> Markup {
    html! { th scope="row" class=(format!("c{}", at % 8)) { i {} (name) } }
}

fn comparison(report: &Report) -> Markup {
    let Some(comparison) = &report.comparison else { return Markup::default() };
    let against = &report.methods[comparison.against].name;
    let others = report.methods.iter().zip(&comparison.tests).enumerate();
    html! {
        h3 { "Differences to " (against) }
        p {
            "p of Wilcoxon's signed-rank test over pictures, corrected by Holm's rule for the number of \
             methods: + where the method is better than " (against) ", - where it is worse."
        }
        div class="scroll" {
            table class="sortable" {
                thead { tr { (head("Method", "", "ascending")) (p_heads(report)) } }
                tbody {
                    @for (at, (method, tests)) in others.filter(|(at, _)| *at != comparison.against) {
                        tr {
                            (method_head(at, &method.name))
                            @for test in tests {
                                (cell(test.map(|t| t.adjusted), &p_value(*test), None, None))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn p_heads(report: &Report) -> Markup {
    html! { @for metric in &report.metrics { (head(metric.name(), "p", "ascending")) } }
}

fn values(report: &Report, shown: bool) -> Markup {
    let rows = report.pairs.iter().enumerate();
    let rows = rows.filter_map(|(at, pair)| Some((at, pair, pair.outcome.as_ref().ok()?)));
    html! {
        section id="values" {
            h2 { "Values" }
            div class="scroll tall" {
                table class="sortable" {
                    thead {
                        tr {
                            (head("Picture", "", "ascending"))
                            (head("Method", "", "ascending"))
                            (metric_heads(report))
                        }
                    }
                    tbody {
                        @for (at, pair, outcome) in rows {
                            @for (place, scored) in outcome.methods.iter().enumerate() {
                                @if let Ok(scored) = scored {
                                    tr id=(format!("v{at}-{place}")) {
                                        th scope="row" {
                                            @if shown { a href=(format!("#p{at}")) { (pair.name) } }
                                            @else { (pair.name) }
                                        }
                                        td { (report.methods[place].name) }
                                        (row_of(report, scored))
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn row_of(report: &Report, scored: &Scored) -> Markup {
    let values = report.metrics.iter().map(|&metric| scored.scores.get(metric));
    html! { @for value in values { (cell(value, &number(value), None, None)) } }
}

fn pictures(report: &Report) -> Markup {
    html! {
        section id="pictures" {
            h2 { "Pictures" }
            form id="options" {
                label {
                    "On hover or tap, the difference to "
                    select id="reference" {
                        option value="visible" { "the visible picture" }
                        option value="infrared" { "the infrared picture" }
                        @for (at, method) in report.methods.iter().enumerate() {
                            option value=(format!("m{at}")) { (method.name) }
                        }
                    }
                }
                " "
                label {
                    "times "
                    select id="gain" {
                        option { "1" } option selected { "2" } option { "4" } option { "8" }
                    }
                }
                " "
                label {
                    "Below each result "
                    select id="shown" {
                        @for &metric in &report.metrics {
                            option selected[metric == Metric::Qabf] { (metric.name()) }
                        }
                    }
                }
            }
            p {
                "The pictures are reduced and compressed, and differences are of these, in luminance: they \
                 show where methods differ, the tables by how much."
            }
            @for (at, pair) in report.pairs.iter().enumerate() {
                @if let Ok(outcome) = &pair.outcome { (article(report, at, &pair.name, outcome)) }
            }
        }
    }
}

fn article(report: &Report, at: usize, name: &str, outcome: &Outcome) -> Markup {
    let (width, height) = outcome.size;
    html! {
        article id=(format!("p{at}")) {
            h3 { (name) " " small { (width) "×" (height) } }
            div class="row" style=(format!("--ratio:{width}/{height}")) {
                (figure("visible", "Visible", None, &outcome.sources[0]))
                (figure("infrared", "Infrared", None, &outcome.sources[1]))
                @for (at, scored) in outcome.methods.iter().enumerate() {
                    (result(report, at, scored))
                }
            }
        }
    }
}

fn result(report: &Report, at: usize, scored: &Result<Scored, String>) -> Markup {
    let name = &report.methods[at].name;
    match scored {
        Ok(Scored { scores, picture }) => {
            let texts: Vec<_> = report.metrics.iter().map(|&m| number(scores.get(m))).collect();
            figure(&format!("m{at}"), name, Some(texts.join(" ")), picture)
        }
        Err(why) => html! {
            figure { div class="view none" { (why) } figcaption { (name) } }
        },
    }
}

/// A source has no scores: only results can be compared with something.
fn figure(key: &str, name: &str, scores: Option<String>, uri: &str) -> Markup {
    html! {
        figure data-key=(key) {
            div class="view" tabindex=[scores.as_ref().map(|_| "0")] {
                img alt=(name) decoding="async" src=(uri);
            }
            figcaption {
                (name)
                @if let Some(scores) = scores { " " output data-all=(scores) {} }
            }
        }
    }
}
