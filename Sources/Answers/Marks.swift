// SPDX-License-Identifier: Apache-2.0
// The marks of a process (SegmentMarks.swift), or of a file: set, listed, and as a part of tables.

import Bounds
import ByteText
import IndexReader
import SystemAccess

extension SegmentMark {
  /// Seconds from the mark until the clock was read. Of an ended process, too, until then.
  package func age(on clock: SegmentClock) -> Double { max(0, clock.uptime - Double(moment) / 1e9) }
}

/// The marks of a process, or of a recording or snapshot of it, as of one moment.
public struct MarkList: Hashable, Sendable {
  public struct Mark: Hashable, Sendable {
    public var name: ForeignText
    /// Seconds from the mark until the moment. Less than 0 where that is a past one, of a recording, and the mark came
    /// later.
    public var age: Double

    package init(name: ForeignText, age: Double) { (self.name, self.age) = (name, age) }

    /// `before-load 12 min 3 s ago`.
    fileprivate var phrase: String { "\(name) \(Units.duration(age.magnitude)) \(age < 0 ? "later" : "ago")" }
  }

  public var marks: [Mark]

  /// Those of a file, which may have other marks, and more of them, than a process can.
  package init(_ marks: [Mark]) { self.marks = marks }

  /// Lines of 80 columns for a table; none if there are no marks.
  var lines: [String] {
    guard !marks.isEmpty else { return [] }
    var lines = TextLayout.wrap(marks.map(\.phrase), indent: "           ")
    lines[0] = "  marks    " + lines[0].dropFirst(11)
    return lines
  }

  /// `,"marks":[…]`, nothing if there are none.
  func appendJSONField(to writer: inout ByteWriter) {
    guard !marks.isEmpty else { return }
    writer.append(",")
    appendJSONArray(to: &writer)
  }

  private func appendJSONArray(to writer: inout ByteWriter) {
    writer.append("\"marks\":[")
    for (index, mark) in marks.enumerated() {
      if index > 0 { writer.append(",") }
      writer.append("{\"name\":", string: mark.name)
      writer.append(text: mark.age < 0 ? ",\"age_seconds\":-" : ",\"age_seconds\":")
      writer.append(decimal: mark.age.magnitude, places: 2)
      writer.append("}")
    }
    writer.append("]")
  }

  /// A line a mark.
  public var text: String {
    TextLayout.text(
      of: marks.isEmpty ? ["no marks"] : marks.map { TextLayout.fit($0.phrase, columns: TextLayout.columns) })
  }

  /// One JSON object, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 256)
    writer.append("{")
    appendJSONArray(to: &writer)
    writer.append("}")
    return writer.takeString()
  }
}

extension ProcessView {
  /// The marks that the process has now.
  public func marks() -> MarkList { marks(on: shared.segment.clock()) }

  func marks(on clock: SegmentClock) -> MarkList {
    MarkList(markedMoments.map { MarkList.Mark(name: $0.name, age: $0.age(on: clock)) })
  }

  private var markedMoments: [SegmentMark] { SegmentMark.all(ofSegment: path, shared.segment.identity) }

  /// Gives this moment a name, with the rights of the caller. Returns how many seconds ago a mark was that had the name
  /// already and is moved; nil if there was none. Throws `.usage` if a mark can't be called so.
  @discardableResult
  public func setMark(_ name: String) throws(Complaint) -> Double? {
    try Self.checkName(name)
    guard isProcessAlive else {
      throw Complaint(
        .obstacle, what: "can't mark a moment of process \(processID): it has ended",
        advice: "name a moment by its time: --since 14:05, --since 10m")
    }
    let clock = shared.segment.clock()
    let moment = Foreign<UInt64>(wholePartOf: clock.uptime * 1e9).saturated()
    let former = try SegmentMark(name: ForeignText(name), moment: moment)
      .set(onSegment: path, shared.segment.identity)
    return former.map { max(0, clock.uptime - Double($0) / 1e9) }
  }

  public func removeMark(_ name: String) throws(Complaint) {
    try Self.checkName(name)
    try SegmentMark.remove(ForeignText(name), fromSegment: path, shared.segment.identity)
  }

  private static func checkName(_ name: String) throws(Complaint) {
    guard SegmentMark.isName(name) else {
      throw Complaint(
        .usage, what: "\"\(TextLayout.fit(TextLayout.printable(name), columns: 40))\" is no name of a mark",
        advice: "give a letter, then letters, digits, ., _ or -, \(SegmentMark.nameLimit) at most: "
          + "what begins otherwise may be a time")
    }
  }

  /// The scope with times in place of marks.
  func placed(_ scope: HeapScope, on clock: SegmentClock) throws(Complaint) -> HeapScope {
    guard scope.namesMoments else { return scope }
    let marks = markedMoments
    var scope = scope
    scope.window = try scope.window.placed(among: marks, on: clock)
    scope.divisions = try scope.divisions.map { moment throws(Complaint) in try moment.placed(among: marks, on: clock) }
    return scope
  }
}
