//! What all commands of an operator print alike. Formats only.

use manyhands_protocol::problem::Problem;

/// A problem document as one line: the field at fault, what happened, and the code to look up.
pub fn problem(problem: &Problem) -> String {
    // The detail of some problems begins with the field already.
    let field = problem.field.as_deref().filter(|field| !problem.detail.starts_with(*field));
    let field = field.map(|field| format!("{field}: ")).unwrap_or_default();
    let retry = if problem.retryable { "; try again later" } else { "" };
    format!("{field}{} ({}{retry})", problem.detail, problem.code)
}

/// JSON for scripts.
pub fn pretty<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).expect("a view of plain values always serialises")
}

/// Columns padded to their widest cell, two spaces apart; control characters of foreign text become `?`.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let cell = |text: &String| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    let widths: [usize; N] = std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(text, width)| format!("{:width$}", cell(text))).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
