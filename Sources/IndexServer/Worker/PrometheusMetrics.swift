// SPDX-License-Identifier: Apache-2.0
// The server's figures about itself (Metrics.swift): a swift-metrics backend that keeps them, and writes them in
// Prometheus' text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). A series is made once and lives
// as long as the program.

import CoreMetrics
import Synchronization

/// Makes series, and writes down those of the server's own metrics. Thread-safe.
final class PrometheusMetrics: MetricsFactory, Sendable {
  /// The name and the labels of a series. A series is looked up for each request, so the text of its labels is made
  /// only when it is written.
  private struct Key: Hashable {
    struct Label: Hashable {
      var name: String
      var value: String
    }
    var name: String
    var labels: [Label]

    init(_ name: String, _ dimensions: [(String, String)]) {
      self.name = name
      labels = dimensions.map { Label(name: $0.0, value: $0.1) }
    }

    var lineLabels: String { labels.map { "\($0.name)=\"\(Self.escaped($0.value))\"" }.joined(separator: ",") }

    private static func escaped(_ value: String) -> String {
      value.reduce(into: "") { result, character in
        switch character {
        case "\\", "\"": result += "\\\(character)"
        case "\n": result += "\\n"
        default: result.append(character)
        }
      }
    }
  }

  private let series = Mutex<[Key: any Series]>([:])

  private func make<Kind: Series>(_ name: String, _ dimensions: [(String, String)], _ new: () -> Kind) -> Kind {
    series.withLock { series in
      let key = Key(name, dimensions)
      if let existing = series[key] as? Kind { return existing }
      let made = new()
      series[key] = made
      return made
    }
  }

  func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
    make(label, dimensions) { Count() }
  }

  func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
    make(label, dimensions) { Level() }
  }

  func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
    aggregate
      ? make(label, dimensions) { Distribution(bounds: Distribution.powersOfTen) } : make(label, dimensions) { Level() }
  }

  func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
    make(label, dimensions) { Distribution(bounds: Distribution.seconds) }
  }

  // A series is shared by all callers that made it under the same name, and stays.
  func destroyCounter(_ handler: any CounterHandler) {}
  func destroyMeter(_ handler: any MeterHandler) {}
  func destroyRecorder(_ handler: any RecorderHandler) {}
  func destroyTimer(_ handler: any TimerHandler) {}

  /// All metrics with their series, in Prometheus' text format.
  func exposition() -> String {
    let entries = series.withLock { $0 }.map { (key: $0.key, series: $0.value) }
    let known = Dictionary(grouping: entries) { $0.key.name }
    var text = ""
    for metric in Metric.all.sorted(by: { $0.name < $1.name }) {
      text += "# HELP \(metric.name) \(metric.row.help)\n# TYPE \(metric.name) \(metric.type)\n"
      let lines = (known[metric.name] ?? []).map { (labels: $0.key.lineLabels, series: $0.series) }
      for line in lines.sorted(by: { $0.labels < $1.labels }) {
        line.series.write(name: metric.name, labels: line.labels, to: &text)
      }
    }
    return text
  }
}

/// One series: it is written as one or more lines of the format.
private protocol Series: Sendable {
  func write(name: String, labels: String, to text: inout String)
}

private func line(_ name: String, _ labels: [String], _ value: String) -> String {
  let labels = labels.filter { !$0.isEmpty }
  return labels.isEmpty ? "\(name) \(value)\n" : "\(name){\(labels.joined(separator: ","))} \(value)\n"
}

private final class Count: Series, CounterHandler {
  private let value = Atomic<Int64>(0)

  func increment(by amount: Int64) { value.wrappingAdd(amount, ordering: .relaxed) }
  func reset() { value.store(0, ordering: .relaxed) }

  func write(name: String, labels: String, to text: inout String) {
    text += line(name, [labels], "\(UInt64(bitPattern: value.load(ordering: .relaxed)))")
  }
}

private final class Level: Series, MeterHandler, RecorderHandler {
  private let value = Mutex<Double>(0)

  func set(_ value: Int64) { set(Double(value)) }
  func set(_ value: Double) { self.value.withLock { $0 = value } }
  func increment(by amount: Double) { value.withLock { $0 += amount } }  // bounded: in floating point
  func decrement(by amount: Double) { value.withLock { $0 -= amount } }  // bounded: in floating point
  func record(_ value: Int64) { set(value) }
  func record(_ value: Double) { set(value) }

  func write(name: String, labels: String, to text: inout String) {
    text += line(name, [labels], number(value.withLock { $0 }))
  }
}

private final class Distribution: Series, RecorderHandler, TimerHandler {
  /// A query over a kept connection takes about 0.1 ms; the first query with symbols may take seconds.
  static let seconds = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1, 5]
  static let powersOfTen = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9]

  private struct State {
    var counts: [UInt64]  // one for each bound, and one for values above all bounds
    var sum = 0.0
  }
  private let bounds: [Double]
  private let state: Mutex<State>

  init(bounds: [Double]) {
    self.bounds = bounds
    state = Mutex(State(counts: bounds.map { _ in 0 } + [0]))
  }

  func record(_ value: Int64) { record(Double(value)) }
  func recordNanoseconds(_ duration: Int64) { record(Double(duration) / 1e9) }

  func record(_ value: Double) {
    let index = bounds.firstIndex { value <= $0 } ?? bounds.count
    state.withLock {
      $0.counts[index] &+= 1
      $0.sum += value  // bounded: in floating point
    }
  }

  func write(name: String, labels: String, to text: inout String) {
    let state = state.withLock { $0 }
    var total: UInt64 = 0
    for (index, count) in state.counts.enumerated() {
      total &+= count
      let bound = index < bounds.count ? number(bounds[index]) : "+Inf"
      text += line("\(name)_bucket", [labels, "le=\"\(bound)\""], "\(total)")
    }
    text += line("\(name)_sum", [labels], number(state.sum))
    text += line("\(name)_count", [labels], "\(total)")
  }
}

/// A number without a fraction where it has none.
private func number(_ value: Double) -> String {
  Int64(exactly: value).map(String.init) ?? value.description
}
