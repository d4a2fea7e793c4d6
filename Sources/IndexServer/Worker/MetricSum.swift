// SPDX-License-Identifier: Apache-2.0
// Sums of figures: of several workers, as these write them down (PrometheusMetrics.swift), and the broker's. Series
// that are no known metric's are left out, whatever a worker says.

import Broker

struct MetricSum {
  private var values: [String: Double] = [:]
  /// The series of each metric, in the order in which they came.
  private var series: [String: [String]] = [:]
  private let names = Set(Metric.all.map(\.name))

  private static let seriesLimit = 10_000

  /// The broker's own: what workers say of these is left out.
  private static let brokersOwn: Set<String> = [
    Metric.Level.connections.rawValue, Metric.Level.segments.rawValue, Metric.Level.segmentBytes.rawValue,
    Metric.Level.workers.rawValue,
  ]

  mutating func add(_ text: String) {
    for line in text.split(separator: "\n") where !line.hasPrefix("#") {
      guard let space = line.lastIndex(of: " "), let value = Double(line[line.index(after: space)...]), value.isFinite
      else { continue }
      add(String(line[..<space]), value)
    }
  }

  mutating func add(brokerFigures words: [UInt64]) {
    guard words.count == Figure.allCases.count else { return }
    func figure(_ figure: Figure) -> Double { Double(words[figure.rawValue]) }
    for (metric, value) in [
      (Metric.Count.connectionsRefused, Figure.connectionsRefused), (.connectionsDelayed, .connectionsDelayed),
      (.usersBarred, .usersBarred), (.endingsUnknown, .endingsUnknown), (.segmentsRemoved, .segmentsRemoved),
      (.workersStarted, .workersStarted),
      (.workersFailed, .workersFailed), (.workersKilled, .workersKilled), (.logLinesDropped, .logLinesDropped),
    ] {
      put(metric.rawValue, metric.rawValue, figure(value))
    }
    for (metric, labels, value) in [
      (Metric.Level.connections, "", Figure.connections), (.workers, "", .workers),
      (.segments, "{process=\"dead\"}", .segmentsDead), (.segments, "{process=\"live\"}", .segmentsLive),
      (.segmentBytes, "", .segmentBytes),
    ] {
      put(metric.rawValue, "\(metric.rawValue)\(labels)", figure(value))
    }
  }

  private mutating func add(_ key: String, _ value: Double) {
    var name = String(key.prefix { $0 != "{" })
    if !names.contains(name) {
      for suffix in ["_bucket", "_sum", "_count"] where name.hasSuffix(suffix) {
        name = String(name.dropLast(suffix.count))
      }
    }
    guard names.contains(name), !Self.brokersOwn.contains(name), key.utf8.count < 200,
      key.utf8.allSatisfy({ 0x20..<0x7f ~= $0 })
    else { return }
    put(name, key, value)
  }

  private mutating func put(_ name: String, _ key: String, _ value: Double) {
    if let old = values[key] {
      values[key] = old + value  // bounded: in floating point
    } else if values.count < Self.seriesLimit {
      values[key] = value
      series[name, default: []].append(key)
    }
  }

  var text: String {
    var text = ""
    for metric in Metric.all.sorted(by: { $0.name < $1.name }) {
      text += "# HELP \(metric.name) \(metric.row.help)\n# TYPE \(metric.name) \(metric.type)\n"
      for key in series[metric.name] ?? [] {
        let value = values[key] ?? 0
        text += "\(key) \(Int64(exactly: value).map(String.init) ?? value.description)\n"
      }
    }
    return text
  }
}
