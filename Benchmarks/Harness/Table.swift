// The result as tables of 80 columns.

import Foundation
import Measurement

enum Table {
  static func heading(_ part: Benchmark.Part) -> String {
    let head =
      switch part {
      case .time:
        column("", 26) + column("plain", 9, right: true) + column("agent ÷ plain", 17, right: true)
          + column("heapt.", 7, right: true) + " bar"
      case .index: column("", 26) + column("median", 14, right: true) + column("99th perc.", 17, right: true) + " bar"
      }
    return head + "\n" + String(repeating: "─", count: 80)
  }

  /// Times: name, plain, the agent's ratio to it (median, least and greatest round), heaptrack's ratio, the bar and whether
  /// it is met. Figures: name, median, 99th percentile, the same.
  static func line(_ row: Row) -> String {
    var line = column(row.name, 26)
    switch row.value {
    case .comparison(let rounds):
      line += column(rounds.spread(of: .plain).map { figure($0.median, row.unit) } ?? "–", 9, right: true)
      line += column(rounds.ratio(of: .agent).map(spread) ?? "–", 17, right: true)
      line += column(rounds.ratio(of: .heaptrack).map { number($0.median) } ?? "–", 7, right: true)
    case .share(let share):
      line += column("", 9) + column(spread(share), 17, right: true) + column("", 7)
    case .figure(let value, let percentile99):
      line += column(figure(value, row.unit), 14, right: true)
      line += column(percentile99.map { figure($0, row.unit) } ?? "", 17, right: true)
    case .missing:
      line += column("–", 14, right: true) + column("", 17)
    }
    if let bar = row.bar, let verdict = row.verdict { line += " \(limit(bar)) \(verdict)" }
    while line.last == " " { line.removeLast() }
    if case .missing(let why) = row.value { line += "\n  (\(why))" }
    return line
  }

  static func spread(_ spread: Spread) -> String {
    "\(number(spread.median)) (\(number(spread.minimum))–\(number(spread.maximum)))"
  }

  static func limit(_ bar: Bar) -> String {
    switch bar {
    case .atMost(let limit): "≤\(number(limit))"
    case .atLeast(let limit): "≥\(number(limit))"
    }
  }

  static func figure(_ value: Double, _ unit: String) -> String {
    unit == "/s" ? number(value) + unit : "\(number(value)) \(unit)"
  }

  /// Three significant digits, or all before the point.
  static func number(_ value: Double) -> String {
    switch abs(value) {
    case 1000...: grouped(Int(value.rounded()))
    case 100...: String(format: "%.0f", value)
    case 10...: String(format: value == value.rounded() ? "%.0f" : "%.1f", value)
    case 0.1...: String(format: "%.2f", value)
    default: String(format: "%.3f", value)
    }
  }

  private static func grouped(_ value: Int) -> String {
    var digits = String(value.magnitude)
    var groups: [String] = []
    while digits.count > 3 {
      groups.insert(String(digits.suffix(3)), at: 0)
      digits.removeLast(3)
    }
    return (value < 0 ? "-" : "") + ([digits] + groups).joined(separator: ",")
  }

  /// `text` in `width` columns: characters are counted, not bytes.
  private static func column(_ text: String, _ width: Int, right: Bool = false) -> String {
    let padding = String(repeating: " ", count: max(0, width - text.count))
    return right ? padding + text : text + padding
  }
}
