// SPDX-License-Identifier: Apache-2.0
// A window of time: which live blocks a question is about, by when they were made. As the index has the time of each
// block, "made in the window and alive now" comes from one look.
//
// A moment is told as people tell it: so long ago, or a time of the day or a date. It is put in the terms of a
// process's records when the question is asked (SegmentClock.order), to a tick of 1/64 s. Of two windows that meet at a
// moment, the first ends before the tick of that moment and the second begins with it: no block is in both.

import Bounds
import ByteText
import Glibc
import IndexReader
import SystemAccess

/// A moment, as a question names it.
public enum Moment: Hashable, Sendable {
  /// So many seconds before the question is asked.
  case ago(Double)
  /// Seconds since 1970-01-01 UTC.
  case time(Double)
  /// The mark of this name. Which moment that is, only the process or the file that is asked about knows: `placed`
  /// finds it.
  case mark(String)
  /// Seconds since the start of the recording that is asked about.
  case recorded(Double)

  /// From `10m` (ago); `2026-11-29T14:05:30Z`, with a fraction of the second, or an offset such as `+01:00` in place of
  /// the Z; `@1764425130.5`, in seconds since 1970; if `hasClock`, `14:05` or `14:05:30.5`, the time of the day where
  /// this program runs that is nearest to now; `@2.5s`, so long after a recording's start; and a mark's name. Throws
  /// `.usage` for other texts, and for a moment later than `now`.
  public init(_ text: String, now: Double, hasClock: Bool) throws(Complaint) {
    let time: Double
    if let seconds = Units.seconds(inTime: text) {
      self = .ago(seconds)
      return
    } else if text.hasPrefix("@"), let seconds = Double(text.dropFirst()), seconds.isFinite {
      time = seconds
    } else if text.hasPrefix("@"), let seconds = Units.seconds(inTime: String(text.dropFirst())) {
      self = .recorded(seconds)
      return
    } else if let date = Self.date(text) {
      time = date
    } else if hasClock, let daytime = Self.latest(text, now) {
      time = daytime
    } else if SegmentMark.isName(text) {
      self = .mark(text)
      return
    } else {
      let clock = hasClock ? "14:05, " : ""
      throw Complaint(
        .usage, what: "\"\(Self.shown(text))\" is no moment",
        advice: "give 10m (ago), \(clock)2026-11-29T14:05:30Z, @SECONDS or a mark's name")
    }
    guard time <= now else {
      throw Complaint(
        .usage, what: "\(Self.shown(text)) is in the future",
        advice: "give a moment that has been, one of another day with its date")
    }
    self = .time(time)
  }

  private static func shown(_ text: String) -> String { TextLayout.fit(TextLayout.printable(text), columns: 40) }

  /// The seconds of a minute, from two digits and perhaps a fraction; nil for other texts.
  private static func second(_ text: Substring) -> Double? {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count <= 2, parts[0].utf8.count == 2,
      parts.allSatisfy({ !$0.isEmpty && $0.utf8.allSatisfy { $0 &- UInt8(ascii: "0") < 10 } }),
      let second = Double(text), second < 60
    else { return nil }
    return second
  }

  /// Hours and minutes, in two digits each.
  private static func clock(_ text: some StringProtocol) -> (hour: Int32, minute: Int32)? {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 2,
      parts.allSatisfy({ $0.utf8.count == 2 && $0.utf8.allSatisfy { $0 &- UInt8(ascii: "0") < 10 } })
    else { return nil }
    guard let hour = UInt8(parts[0]), hour < 24 else { return nil }
    guard let minute = UInt8(parts[1]), minute < 60 else { return nil }
    return (Int32(truncatingIfNeeded: hour), Int32(truncatingIfNeeded: minute))
  }

  /// A date with its zone, as RFC 3339 has it.
  private static func date(_ text: String) -> Double? {
    let form = Array("0000-00-00T00:00:00".utf8)
    let bytes = Array(text.utf8)
    let isDigit = { (byte: UInt8) in byte &- UInt8(ascii: "0") < 10 }
    guard bytes.count > form.count, bytes.count < 64, bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7F }),
      zip(bytes, form).allSatisfy({ isDigit($1) ? isDigit($0) : $0 == $1 })
    else { return nil }
    let fields = bytes[..<form.count].split { !isDigit($0) }.compactMap { Int32(String(decoding: $0, as: UTF8.self)) }
    guard fields.count == 6, fields[3] < 24, fields[4] < 60, fields[5] < 60 else { return nil }
    var parts = tm()
    parts.tm_year = fields[0] &- 1900
    parts.tm_mon = fields[1] &- 1
    parts.tm_mday = fields[2]
    (parts.tm_hour, parts.tm_min, parts.tm_sec) = (fields[3], fields[4], fields[5])
    let whole = Double(timegm(&parts))
    // A day that its month does not have is another month's now.
    guard parts.tm_mon == fields[1] &- 1, parts.tm_mday == fields[2] else { return nil }
    let rest = text.dropFirst(form.count)
    let zone = rest.drop { $0 == "." || $0.isNumber }
    let fraction = rest.dropLast(zone.count)
    guard let second = second("00" + fraction) else { return nil }
    let time = whole + second
    if zone == "Z" || zone == "z" { return time }
    guard let sign = zone.first, sign == "+" || sign == "-", let ahead = clock(zone.dropFirst()) else { return nil }
    let seconds = Double(ahead.hour) * 3600.0 + Double(ahead.minute) * 60.0
    return sign == "+" ? time - seconds : time + seconds  // bounded: seconds in floating point
  }

  /// The time nearest to `now` at which the clock of the place showed `text`, or will show it today: shortly after
  /// midnight 23:50 was yesterday, and in the afternoon it is to come.
  private static func latest(_ text: String, _ now: Double) -> Double? {
    guard let (hour, minute) = clock(text.prefix(5)) else { return nil }
    let rest = text.dropFirst(5)
    guard rest.isEmpty || rest.first == ":", let second = rest.isEmpty ? 0 : second(rest.dropFirst()) else {
      return nil
    }
    var seconds = time_t(exactly: now.rounded(.down)) ?? 0
    var today = tm()
    guard localtime_r(&seconds, &today) != nil else { return nil }
    for daysBack: Int32 in 0...1 {
      var parts = tm()
      parts.tm_year = today.tm_year
      parts.tm_mon = today.tm_mon
      parts.tm_mday = today.tm_mday &- daysBack
      parts.tm_hour = hour
      parts.tm_min = minute
      // Whether it was summer then is for the C library to find out.
      parts.tm_isdst = -1
      let time = Double(mktime(&parts)) + second
      if time <= now || daysBack == 0 && time - now < 43_200 { return time }
    }
    return nil
  }

  /// The moment as a time, where it is a mark of `marks`. Throws `.usage` if there is no such mark.
  func placed(among marks: [SegmentMark], on clock: SegmentClock) throws(Complaint) -> Moment {
    if case .recorded = self {
      throw Complaint(
        .usage, what: "\(text) is a moment of a recording, and a process is asked",
        advice: "give 10m (ago), a time, or a mark of the process")
    }
    guard case .mark(let name) = self else { return self }
    guard let mark = marks.first(where: { $0.name == name }) else {
      throw SegmentMark.unknown(ForeignText(name), among: marks)
    }
    return .ago(mark.age(on: clock))
  }

  /// The moment in the records' terms. One that is to be placed is not known before: no block was made since.
  func order(on clock: SegmentClock) -> UInt64 {
    switch self {
    case .ago(let seconds): clock.order(ofAge: seconds)
    case .time(let seconds): clock.order(ofWallTime: seconds)
    case .mark, .recorded: .max
    }
  }

  /// Seconds from the moment until `now`; nil of one that is to be placed.
  func age(at now: Double) -> Double? {
    switch self {
    case .ago(let seconds): seconds
    case .time(let time): max(0, now - time)
    case .mark, .recorded: nil
    }
  }

  /// Whether it is one that every source of blocks knows.
  var isPlaced: Bool {
    switch self {
    case .ago, .time: true
    case .mark, .recorded: false
    }
  }

  /// A text that `init` takes for this moment in every zone.
  public var text: String {
    switch self {
    case .ago(let seconds): "\(seconds)s"
    case .time(let time): "@\(time)"
    case .mark(let name): name
    case .recorded(let seconds): "@\(seconds)s"
    }
  }
}

/// Since when, and until when, a block was made that a question is about.
public struct TimeWindow: Hashable, Sendable {
  /// The first moment of the window; nil: the beginning of the process.
  public var since: Moment?
  /// The first moment behind the window; nil: it has no end.
  public var until: Moment?

  public init(since: Moment? = nil, until: Moment? = nil) {
    self.since = since
    self.until = until
  }

  /// This window. Throws `.usage` if it ends before it begins; of moments that are to be placed that is known when they
  /// are.
  public func checked(at now: Double) throws(Complaint) -> TimeWindow {
    if let since = since?.age(at: now), let until = until?.age(at: now), since <= until {
      throw Complaint(
        .usage, what: "the window of time ends before it begins",
        advice: "give a moment to begin with that is longer ago than the one to end with")
    }
    return self
  }

  /// The window with times in place of marks.
  func placed(among marks: [SegmentMark], on clock: SegmentClock) throws(Complaint) -> TimeWindow {
    try TimeWindow(since: since?.placed(among: marks, on: clock), until: until?.placed(among: marks, on: clock))
      .checked(at: SystemClock.now())
  }

  /// Whether all blocks are in it.
  public var isAll: Bool { since == nil && until == nil }

  /// The orders (`SegmentClock.order`) of the blocks in it; nil if all are.
  package func orders(on clock: SegmentClock) -> Range<UInt64>? {
    guard !isAll else { return nil }
    let start = since?.order(on: clock) ?? 0
    return start..<max(start, until?.order(on: clock) ?? .max)
  }

  /// The words behind "blocks": `made in the last 10 min`; nil if all blocks are meant.
  func words(at now: Double) -> String? {
    let since = since?.age(at: now).map { Units.duration($0) }
    let until = until?.age(at: now).map { Units.duration($0) }
    return switch (since, until) {
    case (nil, nil): nil
    case (let since?, nil): "made in the last \(since)"
    case (nil, let until?): "made more than \(until) ago"
    case (let since?, let until?): "made between \(since) and \(until) ago"
    }
  }

  /// The JSON field with the comma before it: both moments in seconds since 1970-01-01 UTC.
  func appendJSONField(at now: Double, to writer: inout ByteWriter) {
    guard !isAll else { return }
    var fields: [String] = []
    if let age = since?.age(at: now) { fields.append("\"since\":\(Self.seconds(now - age))") }
    if let age = until?.age(at: now) { fields.append("\"until\":\(Self.seconds(now - age))") }
    writer.append(text: ",\"window\":{\(fields.joined(separator: ","))}")
  }

  /// To a hundredth of a second, as far as records tell time.
  private static func seconds(_ time: Double) -> String { "\((time * 100.0).rounded() / 100.0)" }
}
