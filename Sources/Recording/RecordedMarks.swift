// SPDX-License-Identifier: Apache-2.0
// The marks that a process had when its recording was finished or its snapshot made
// (SegmentMarks.swift); and the moments that a window of time may name of a recording: these, those
// of its own time, and its peak.

import Answers
import ByteText
import IndexReader
import SystemAccess

/// A mark as a recording has it.
struct RecordedMark: Hashable {
  var name: ForeignText
  /// As that of an event.
  var stamp: UInt64
}

extension RecordingWriter {
  /// Writes the marks of the process, if there are any.
  func appendMarks() {
    let marks = SegmentMark.all(ofSegment: shared.segment.path, shared.segment.identity)
    guard !marks.isEmpty else { return }
    let (clock, now) = (shared.segment.clock(), stampNow)
    let rows = marks.map { mark in
      // bounded: floating point, of no more than 64 bits
      let age = UInt64(max(0, min(mark.age(on: clock), 1e10)) * 1e9)
      return RecordedMark(name: mark.name, stamp: now > age ? now &- age : 0)
    }
    append(.marks, TableCoding.encode(rows))
  }
}

extension Recording {
  /// Times in seconds since 1970 below this are before any recording: somebody means another time.
  private static let firstTime = 1e9

  /// The marks as of a moment, the earliest first. Stamps that no process has had may be of any
  /// time.
  func markList(at stamp: UInt64) -> MarkList {
    MarkList(
      marks.sorted { ($0.stamp, $0.name) < ($1.stamp, $1.name) }.map { mark in
        let (time, isPast) = (mark.stamp, mark.stamp <= stamp)
        // bounded: floating point, and a lesser number from a greater
        let distance = Double(isPast ? stamp - time : time - stamp) / 1e9
        return MarkList.Mark(name: mark.name, age: isPast ? distance : -distance)
      })
  }

  /// The window with times in place of moments of this recording and of marks. `stamp`: the moment
  /// that ages count from. Throws `.usage` for a moment that the recording does not have.
  public func placed(_ window: TimeWindow, at stamp: UInt64) throws(Complaint) -> TimeWindow {
    func placed(_ moment: Moment?) throws(Complaint) -> Moment? {
      try moment.map { moment throws(Complaint) in try self.placed(moment) }
    }
    return try TimeWindow(since: try placed(window.since), until: try placed(window.until))
      .checked(at: wallTime(of: stamp))
  }

  private func placed(_ moment: Moment) throws(Complaint) -> Moment {
    switch moment {
    case .ago: return moment
    case .time(let time):
      guard time < Self.firstTime else { return moment }
      throw Complaint(
        .usage, what: "\(moment.text) is a time long before \(path) was recorded",
        advice: "@2.5s, with its unit, is so long after the recording's start")
    case .recorded(let seconds):
      let length = self.seconds(at: endStamp)
      guard seconds <= length else {
        throw Complaint(
          .usage, what: "\(moment.text) is behind the end of \(path)",
          advice: "it ends \(Units.duration(length)) after its start")
      }
      return .time(wallTime(of: startStamp) + seconds)  // bounded: floating point, which never traps
    case .mark(let name):
      if let mark = marks.first(where: { $0.name == ForeignText(name) }) { return .time(wallTime(of: mark.stamp)) }
      if name == "peak", !isStill { return .time(wallTime(of: summary().peakStamp)) }
      let names = marks.prefix(SegmentMark.limit).map { $0.name.escaped }.joined(separator: ", ")
      throw Complaint(
        .usage, what: "there is no mark \"\(ForeignText(name))\" in \(path)",
        advice: marks.isEmpty
          ? "it has none: a file has the marks that its process had when it was finished"
          : "it has these marks: \(names)")
    }
  }
}
