// SPDX-License-Identifier: Apache-2.0
// The thresholds of `make bench-check`: how many instructions each figure may take, in a file for people. A line is a
// figure's name, its number, and what the figure is; lines that are empty or begin with # mean nothing.

/// A threshold and what it is of.
public struct Threshold: Equatable, Sendable {
  public var name: String
  /// The figure's number when the threshold was set.
  public var limit: Double
  /// What the figure is, in words.
  public var comment: String
}

/// A line of the file that can't be read.
public struct ThresholdError: Error, CustomStringConvertible, Equatable {
  public let description: String
}

public struct Thresholds: Equatable, Sendable {
  /// A figure that is greater than its threshold by more than this share has grown.
  public static let tolerance = 0.03

  public private(set) var rows: [Threshold] = []
  private var lines: [Line] = []

  private enum Line: Equatable, Sendable {
    case text(String)
    case row(Int)
  }

  /// Reads the text of a file.
  public init(_ text: String) throws(ThresholdError) {
    var text = text[...]
    if text.last == "\n" { text.removeLast() }
    for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      let words = line.split(separator: " ", maxSplits: 2)
      guard let name = words.first, !name.hasPrefix("#") else {
        lines.append(.text(String(line)))
        continue
      }
      guard words.count == 3, let limit = Double(words[1]), limit.isFinite, limit > 0 else {
        throw ThresholdError(
          description: "line \(index + 1), '\(line)': a name, a number above 0 and what the figure is are needed")
      }
      guard self[String(name)] == nil else {
        throw ThresholdError(description: "line \(index + 1): '\(name)' is there twice")
      }
      lines.append(.row(rows.count))
      rows.append(
        Threshold(name: String(name), limit: limit, comment: String(words[2].drop { $0 == " " })))
    }
  }

  public subscript(name: String) -> Threshold? { rows.first { $0.name == name } }

  /// The file with `figures` for numbers. A row of which `figures` has nothing stays as it is.
  public func text(setTo figures: [String: Double]) -> String {
    let changed = rows.map { row in figures[row.name].map { Self.rounded($0) } ?? row.limit }
    let nameWidth = rows.map(\.name.count).max() ?? 0
    let numberWidth = changed.map { Self.number($0).count }.max() ?? 0
    return lines.map { line in
      switch line {
      case .text(let text): text
      case .row(let index):
        padded(rows[index].name, nameWidth) + "  "
          + String(repeating: " ", count: numberWidth - Self.number(changed[index]).count)
          + Self.number(changed[index]) + "  " + rows[index].comment
      }
    }.joined(separator: "\n") + "\n"
  }

  // MARK: the judgement

  /// What became of a figure.
  public enum Verdict: Equatable, Sendable {
    /// Within the tolerance of its threshold.
    case kept
    /// Smaller by more than the tolerance: a threshold that is not set anew lets it grow back.
    case shrunk
    case grown
    /// The file has no row of the figure, or nobody counts the row's figure any more.
    case unmatched
  }

  public struct Judgement: Equatable, Sendable {
    public var name: String
    public var comment: String
    public var limit: Double?
    public var figure: Double?

    /// The figure's difference from its threshold, as a share of the threshold.
    public var growth: Double? {
      guard let limit, let figure else { return nil }
      return figure / limit - 1
    }
    public var verdict: Verdict {
      guard let growth, let limit, let figure else { return .unmatched }
      // A number of the file is rounded to a tenth: of the smallest ones that is more than the tolerance.
      if abs(figure - limit) <= 0.1 { return .kept }
      return growth > Thresholds.tolerance ? .grown : growth < -Thresholds.tolerance ? .shrunk : .kept
    }
    public var isPassed: Bool { verdict == .kept || verdict == .shrunk }
  }

  /// Judges `figures`, which are in the order of their counting: each has to have a row, and each row a figure.
  public func judge(_ figures: [(name: String, value: Double)]) -> [Judgement] {
    figures.map { figure in
      let row = self[figure.name]
      return Judgement(name: figure.name, comment: row?.comment ?? "", limit: row?.limit, figure: figure.value)
    }
      + rows.filter { row in !figures.contains { $0.name == row.name } }.map {
        Judgement(name: $0.name, comment: $0.comment, limit: $0.limit, figure: nil)
      }
  }

  /// The table of `judgements`, for a person who sees it for the first time.
  public static func table(_ judgements: [Judgement]) -> String {
    let width = max(6, judgements.map(\.name.count).max() ?? 0)
    func line(_ name: String, _ limit: String, _ figure: String, _ growth: String, _ rest: String) -> String {
      padded(name, width) + aligned(limit, 11) + aligned(figure, 10) + aligned(growth, 9) + "  " + rest
    }
    return
      ([line("figure", "threshold", "now", "%", "instructions of")]
      + judgements.map { judgement in
        let mark =
          switch judgement.verdict {
          case .kept: ""
          case .shrunk: "less: "
          case .grown: "GROWN: "
          case .unmatched: judgement.limit == nil ? "NO THRESHOLD: " : "NOT COUNTED: "
          }
        return line(
          judgement.name, judgement.limit.map(number) ?? "–", judgement.figure.map(number) ?? "–",
          judgement.growth.map(percent) ?? "–", mark + judgement.comment)
      }).joined(separator: "\n")
  }

  private static func percent(_ share: Double) -> String {
    let tenths = Int((share * 1000).rounded())
    return (tenths < 0 ? "-" : tenths > 0 ? "+" : "") + "\(tenths.magnitude / 10).\(tenths.magnitude % 10)"
  }

  /// Tenths below 1,000, whole numbers above.
  private static func rounded(_ value: Double) -> Double {
    value < 1000 ? (value * 10).rounded() / 10 : value.rounded()
  }
  private static func number(_ value: Double) -> String {
    let value = rounded(value)
    return value < 1000 ? "\(value)" : value < 1e15 ? "\(Int(value))" : "\(value)"
  }
}

private func padded(_ text: String, _ width: Int) -> String {
  text + String(repeating: " ", count: max(0, width - text.count))
}
private func aligned(_ text: String, _ width: Int) -> String {
  String(repeating: " ", count: max(0, width - text.count)) + text
}
