// SPDX-License-Identifier: Apache-2.0
// What the broker counts, and the order in which it tells these figures (the message `figures`).

/// A figure of the broker. The workers' Metrics.swift has its name and its words.
public enum Figure: Int, CaseIterable, Sendable {
  // Sums.
  case connectionsRefused, connectionsDelayed, usersBarred, endingsUnknown, segmentsRemoved
  case workersStarted, workersFailed, workersKilled, logLinesDropped
  // Values as of now.
  case connections, workers, segmentsLive, segmentsDead, segmentBytes
}

struct Figures {
  private(set) var values = [UInt64](repeating: 0, count: Figure.allCases.count)

  subscript(figure: Figure) -> UInt64 {
    get { values[figure.rawValue] }
    set { values[figure.rawValue] = newValue }
  }
}
