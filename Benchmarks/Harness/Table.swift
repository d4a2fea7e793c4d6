// SPDX-License-Identifier: Apache-2.0
// The result as tables of 80 columns.

import Foundation
import Measurement

enum Table {
  static func heading(_ part: Benchmark.Part) -> String {
    let head =
      switch part {
      case .time:
        column("", 21) + column("plain", 10, right: true) + column(" call site ÷ plain", 22)
          + column(" full stacks ÷ plain", 22) + column("heap.", 5, right: true)
      case .capture:
        column("at depth 25", 27) + column("median", 13, right: true) + column("(least–greatest)", 19, right: true)
          + " bar"
      case .index: column("", 26) + column("median", 14, right: true) + column("99th perc.", 17, right: true) + " bar"
      case .instructions: column("instructions", 26) + column("", 31) + " bar"
      }
    return trimmed(head) + "\n" + String(repeating: "─", count: 80)
  }

  /// Times: name, plain; for each of the agent's two ways its ratio to plain, the least and the greatest round, the bar
  /// and whether it is met; heaptrack's ratio. Others: name, median, spread or 99th percentile, the bar and the
  /// verdict.
  static func line(_ row: Row) -> String {
    var line: String
    switch row.value {
    case .comparison(let rounds):
      line =
        column(row.name, 21)
        + column(rounds.spread(of: .plain).map { figure($0.median, row.unit) } ?? "–", 10, right: true)
        + ratio(rounds.ratio(of: .site), row.judgement) + ratio(rounds.ratio(of: .full), row.fullJudgement)
        + column(rounds.ratio(of: .heaptrack).map { ratioNumber($0.median) } ?? "–", 5, right: true)
    case .share(let site, let full):
      line = column(row.name, 21 + 10) + ratio(site, row.judgement) + ratio(full, row.fullJudgement)
    case .spread(let spread):
      line =
        column(row.name, 27) + column(figure(spread.median, row.unit), 13, right: true)
        + column("(\(number(spread.minimum))–\(number(spread.maximum)))", 19, right: true) + bar(row.judgement)
    case .figure(let value, let percentile99):
      line =
        column(row.name, 26) + column(figure(value, row.unit), 14, right: true)
        + column(percentile99.map { figure($0, row.unit) } ?? "", 17, right: true) + bar(row.judgement)
    case .missing(let why):
      line = trimmed(column(row.name, 26) + column("–", 14, right: true) + column("", 17) + bar(row.judgement))
      line += "\n  (\(why))"
    }
    return trimmed(line)
  }

  /// 22 columns: "1.18 0.91–1.26 ≤1.12✗".
  private static func ratio(_ spread: Spread?, _ judgement: Row.Judgement?) -> String {
    guard let spread else { return column(" –", 22) }
    let numbers = "\(ratioNumber(spread.median)) \(ratioNumber(spread.minimum))–\(ratioNumber(spread.maximum))"
    let bar = judgement.map { " \(limit($0.bar))\($0.isMet ? "✓" : "✗")" } ?? ""
    return " " + column(numbers, 14) + column(bar, 7)
  }

  private static func bar(_ judgement: Row.Judgement?) -> String {
    judgement.map { " \(limit($0.bar)) \($0.verdict)" } ?? ""
  }

  static func limit(_ bar: Bar) -> String {
    switch bar {
    case .atMost(let limit): "≤\(number(limit))"
    case .atLeast(let limit): "≥\(number(limit))"
    }
  }

  static func figure(_ value: Double, _ unit: String) -> String {
    unit == "/s" || unit.isEmpty ? number(value) + unit : "\(number(value)) \(unit)"
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

  /// Two digits behind the point below 10, so that ratios and shares stand below each other.
  private static func ratioNumber(_ value: Double) -> String {
    abs(value) < 10 ? String(format: "%.2f", value) : number(value)
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

  private static func trimmed(_ line: String) -> String {
    var line = line
    while line.last == " " { line.removeLast() }
    return line
  }

  /// `text` in `width` columns: characters are counted, not bytes.
  private static func column(_ text: String, _ width: Int, right: Bool = false) -> String {
    let padding = String(repeating: " ", count: max(0, width - text.count))
    return right ? padding + text : text + padding
  }
}
