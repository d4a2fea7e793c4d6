// SPDX-License-Identifier: Apache-2.0
// The wrappers that a person adds to the standard ones, checked before they are used.

import Provenance
import SystemAccess

extension Wrappers {
  /// These wrappers and `patterns`. Throws `.usage` if a pattern is empty or too long, or if there are too many; the
  /// complaint calls a function that fits a `kind`.
  public func adding(_ patterns: [String], of kind: String = "wrapper") throws(Complaint) -> Wrappers {
    guard patterns.count <= Self.additionLimit else {
      throw Complaint(
        .usage, what: "there are \(patterns.count) patterns of \(kind)s",
        advice: "give at most \(Self.additionLimit), with * for what they have in common")
    }
    var result = self
    for pattern in patterns {
      let bytes = Self.trimmed(Array(pattern.utf8)[...])
      guard !bytes.isEmpty else {
        throw Complaint(
          .usage, what: "the pattern of a \(kind) is empty", advice: "give a function's name, such as my_malloc or my_*"
        )
      }
      guard bytes.count <= Self.patternLimit else {
        throw Complaint(
          .usage, what: "the pattern of a \(kind) has \(bytes.count) bytes",
          advice: "give at most \(Self.patternLimit), with * for the rest")
      }
      result.add(Array(bytes))
    }
    return result
  }
}
