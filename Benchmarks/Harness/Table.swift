// The result as a table of 80 columns.

import Foundation
import Measurement

enum Table {
  static let heading =
    column("", 30) + column("plain", 10, right: true) + column("agent: median", 15, right: true)
    + column("heaptrack", 11, right: true) + "  bar"

  /// One row: name, plain, the agent's ratio with its spread, heaptrack's ratio, the bar and whether it is met.
  static func line(_ row: Row) -> String {
    var line = column(row.name, 27)
    switch row.value {
    case .comparison(let rounds):
      line += column(rounds.spread(of: .plain).map { figure($0.median, row.unit) } ?? "–", 9, right: true)
      line += column(rounds.ratio(of: .agent).map(spread) ?? "–", 18, right: true)
      line += column(rounds.ratio(of: .heaptrack).map { number($0.median) + "×" } ?? "–", 7, right: true)
    case .share(let share):
      line += column("", 9) + column(spread(share), 18, right: true) + column("", 7)
    case .figure(let value, let percentile99):
      line += column(figure(value, row.unit), 15, right: true)
      line += column(percentile99.map { "p99 " + figure($0, row.unit) } ?? "", 19, right: true)
    }
    if let bar = row.bar {
      line += " " + limit(bar, row.unit) + " " + (row.verdict ?? "not measured")
    }
    return line
  }

  static func spread(_ spread: Spread) -> String {
    "\(number(spread.median)) (\(number(spread.minimum))–\(number(spread.maximum)))"
  }

  static func limit(_ bar: Bar, _ unit: String) -> String {
    let sign = if case .atMost = bar { "≤" } else { "≥" }
    return sign + (bar.limit < 10 ? String(format: "%.4g", bar.limit) : figure(bar.limit, unit))
  }

  /// A value with its unit, in three significant digits or all before the point.
  static func figure(_ value: Double, _ unit: String) -> String { "\(number(value)) \(unit)" }

  static func number(_ value: Double) -> String {
    switch abs(value) {
    case 1000...: grouped(Int(value.rounded()))
    case 100...: String(format: "%.0f", value)
    case 10...: String(format: "%.1f", value)
    default: String(format: "%.2f", value)
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
  static func column(_ text: String, _ width: Int, right: Bool = false) -> String {
    let padding = String(repeating: " ", count: max(0, width - text.count))
    return right ? padding + text : text + padding
  }
}
