// SPDX-License-Identifier: Apache-2.0
// The report of `prune`: what it removed.

import ByteText

/// The files that were removed, or would be.
public struct PruneReport: Sendable {
  public var processes: [IndexedProcess]
  /// Control files without a segment.
  public var controls: [ForeignText]
  public var bytes: UInt64
  /// Segments of ended processes that stay.
  public var kept: Int
  public var isTrial: Bool

  public init(processes: [IndexedProcess], controls: [ForeignText], bytes: UInt64, kept: Int, isTrial: Bool) {
    self.processes = processes
    self.controls = controls
    self.bytes = bytes
    self.kept = kept
    self.isTrial = isTrial
  }

  /// A line for each process, and the sum.
  public var text: String {
    var text = ""
    for process in processes {
      let line =
        "\(process.processID)  \(process.stateText)  \(Units.rounded(process.segmentBytes))  \(process.commandLine)"
      text += TextLayout.fit(line, columns: TextLayout.columns) + "\n"
    }
    for control in controls {
      text += TextLayout.fit(TextLayout.printable(control), columns: TextLayout.columns) + "\n"
    }
    var sum = "\(isTrial ? "would remove" : "removed") "
    if processes.isEmpty, controls.isEmpty {
      sum += "nothing"
    } else {
      sum += "\(Units.count(UInt64(processes.count), "segment")) of ended processes"
      if !controls.isEmpty { sum += " and \(Units.count(UInt64(controls.count), "control file"))" }
      sum += ", \(Units.rounded(bytes))"
    }
    if kept > 0 {
      sum += "; \(Units.grouped(UInt64(clamping: kept))) of ended processes \(kept == 1 ? "stays" : "stay")"
    }
    return TextLayout.text(ofWhole: text + sum + "\n")
  }

  /// One JSON object, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 4096)
    writer.append(isTrial ? "{\"dry_run\":true,\"removed\":[" : "{\"removed\":[")
    for (index, process) in processes.enumerated() {
      if index > 0 { writer.append(",") }
      writer.append("{")
      process.appendJSONFields(to: &writer)
      writer.append("}")
    }
    writer.append("],\"removed_controls\":")
    writer.appendArray(controls)
    writer.append(",\"removed_bytes\":", decimal: bytes)
    writer.append(",\"kept\":", decimal: UInt64(max(0, kept)))
    writer.append("}")
    return writer.takeString()
  }
}
