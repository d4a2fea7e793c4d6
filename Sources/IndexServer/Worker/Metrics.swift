// SPDX-License-Identifier: Apache-2.0
// The server's metrics: one row for each, with its name, its labels and its help. All code that counts names a row, so
// a name or a kind that does not exist is an error of the compiler; so is a row without its words. docs/http.md lists
// the same rows; a test compares that table with `GET /metrics`, which has every row from the start.

import Metrics

enum Metric {
  /// The words of a metric.
  struct Row {
    /// One sentence for people.
    let help: String
    /// Names of labels. The values of labels come from the code, never from a client, so the source bounds the number
    /// of series.
    let labels: [String]

    init(_ help: String, labels: [String] = []) {
      self.help = help
      self.labels = labels
    }

    fileprivate func dimensions(_ values: [String]) -> [(String, String)] {
      precondition(values.count == labels.count, "a value for each label")  // bounded: both are written in this program
      return Array(zip(labels, values))
    }
  }

  /// Sums that only grow.
  enum Count: String, CaseIterable {
    case requests = "allocsd_requests_total"
    case addresses = "allocsd_addresses_total"
    case connectionsRefused = "allocsd_connections_refused_total"
    case connectionsDelayed = "allocsd_connections_delayed_total"
    case usersBarred = "allocsd_users_barred_total"
    case endingsUnknown = "allocsd_endings_unknown_total"
    case segmentsRemoved = "allocsd_segments_removed_total"
    case events = "allocsd_events_total"
    case eventsLost = "allocsd_events_lost_total"
    case eventBytes = "allocsd_events_bytes_total"
    case eventWrites = "allocsd_events_writes_total"
    case eventFailures = "allocsd_events_failures_total"
    case eventTurns = "allocsd_events_turns_total"
    case workersStarted = "allocsd_workers_started_total"
    case workersFailed = "allocsd_workers_failed_total"
    case workersKilled = "allocsd_workers_killed_total"
    case logLinesDropped = "allocsd_log_lines_dropped_total"

    var row: Row {
      switch self {
      case .requests: Row("Requests answered, by route and status.", labels: ["route", "status"])
      case .addresses: Row("Addresses answered.")
      case .connectionsRefused: Row("Connections refused because too many were open.")
      case .connectionsDelayed: Row("Failures to accept a connection for want of descriptors: it waits.")
      case .usersBarred: Row("Times that a user who connected without end was barred from connecting.")
      case .endingsUnknown: Row("Processes of which it could not be learned or noted how they ended.")
      case .segmentsRemoved: Row("Segments of dead processes that were removed.")
      case .events: Row("Events read from the rings of processes.")
      case .eventsLost:
        Row("Events lost: overwritten before they were read, not recorded, or without room.", labels: ["reason"])
      case .eventBytes: Row("Bytes of events that destinations took.")
      case .eventWrites: Row("Writes of events to destinations.")
      case .eventFailures: Row("Exports and streams that ended by a failure, and full disks.")
      case .eventTurns: Row("Looks at the rings of all processes.")
      case .workersStarted: Row("Workers that were started.")
      case .workersFailed: Row("Workers that ended without being told to.")
      case .workersKilled: Row("Workers that were killed, as they hung or broke the rules.")
      case .logLinesDropped: Row("Lines of workers' logs beyond a user's share.")
      }
    }

    func increment(by amount: Int64 = 1, _ labels: String...) {
      Counter(label: rawValue, dimensions: row.dimensions(labels)).increment(by: amount)
    }
  }

  /// Values as of now.
  enum Level: String, CaseIterable {
    case connections = "allocsd_connections"
    case segments = "allocsd_segments"
    case segmentBytes = "allocsd_segments_bytes"
    case segmentsOpen = "allocsd_segments_open"
    case filesHeld = "allocsd_files_held"
    case filesUnheld = "allocsd_files_unheld"
    case eventSources = "allocsd_events_sources"
    case eventSubscribers = "allocsd_events_subscribers"
    case eventBytesWaiting = "allocsd_events_waiting_bytes"
    case workers = "allocsd_workers"

    var row: Row {
      switch self {
      case .connections: Row("Open connections.")
      case .segments: Row("Segments in the directories, by whether their process lives.", labels: ["process"])
      case .segmentBytes: Row("Memory that all segments take.")
      case .segmentsOpen: Row("Segments that are mapped at present.")
      case .filesHeld: Row("Files held open for names, that no path leads to.")
      case .filesUnheld: Row("Files that found no room among those.")
      case .eventSources: Row("Processes whose events are on, once for each reader's place in their rings.")
      case .eventSubscribers: Row("Streams and exports of events at present.")
      case .eventBytesWaiting: Row("Bytes of events that wait for their destinations.")
      case .workers: Row("Workers at present.")
      }
    }

    func set(_ value: Double, _ labels: String...) {
      Meter(label: rawValue, dimensions: row.dimensions(labels)).set(value)
    }

    /// Changes a value without labels; `amount` may be negative.
    func change(by amount: Double) {
      let meter = Meter(label: rawValue, dimensions: row.dimensions([]))
      if amount < 0 { meter.decrement(by: amount.magnitude) } else { meter.increment(by: amount) }
    }
  }

  /// Distributions of times.
  enum Time: String, CaseIterable {
    case requestDuration = "allocsd_request_duration_seconds"

    var row: Row {
      switch self {
      case .requestDuration: Row("Time until the response began, by route.", labels: ["route"])
      }
    }

    func record(_ duration: Duration, _ labels: String...) {
      let (seconds, attoseconds) = duration.components
      Timer(label: rawValue, dimensions: row.dimensions(labels))
        .recordNanoseconds(seconds &* 1_000_000_000 &+ attoseconds / 1_000_000_000)
    }
  }

  /// All metrics: the name, Prometheus' word for the kind, and the row.
  static var all: [(name: String, type: String, row: Row)] {
    [
      Count.allCases.map { ($0.rawValue, "counter", $0.row) }, Level.allCases.map { ($0.rawValue, "gauge", $0.row) },
      Time.allCases.map { ($0.rawValue, "histogram", $0.row) },
    ].flatMap { $0 }
  }

  /// Makes each series that has no labels, so that it is listed also while it is zero.
  static func begin() {
    for metric in Count.allCases where metric.row.labels.isEmpty { metric.increment(by: 0) }
    for metric in Level.allCases where metric.row.labels.isEmpty { metric.change(by: 0) }
  }
}
