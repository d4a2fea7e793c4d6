// SPDX-License-Identifier: Apache-2.0
// What two looks at live memory have to do with each other: whether they are of one process, of two processes of one
// program, of two builds of it, or of two programs, between which no site has anything to do with another.

import ByteText
import IndexReader

/// How the second of two looks is related to the first.
public enum Kinship: String, Hashable, Sendable {
  case process = "same_process"
  case program = "other_process"
  case build = "other_build"
  case none = "other_program"

  /// Nil where the executable of one is not known.
  init?(_ first: StackSums, _ second: StackSums) {
    guard let (one, other) = Self.executables(first, second) else { return nil }
    if one.path.fileName != other.path.fileName {
      // Two names of one file: a link, a file that was renamed.
      let isSameFile = one.buildID == other.buildID && !one.buildID.isEmpty
      self = isSameFile ? .program : .none
    } else if one.buildID != other.buildID {
      self = .build
    } else {
      let isSame = first.processID == second.processID && first.startTime == second.startTime
      self = isSame ? .process : .program
    }
  }

  private static func executables(_ first: StackSums, _ second: StackSums) -> (Module, Module)? {
    guard let one = first.modules.last(where: \.isMain), let other = second.modules.last(where: \.isMain) else {
      return nil
    }
    return (one, other)
  }

  /// What a reader is told; nil of one process, where there is nothing to tell.
  func words(_ first: StackSums, _ second: StackSums) -> String? {
    guard let (one, other) = Self.executables(first, second) else { return nil }
    let (name, otherName) = (one.path.fileName.escaped, other.path.fileName.escaped)
    switch self {
    case .process: return nil
    case .program: return "two processes of \(name): \(first.processID) and \(second.processID)"
    case .build: return "two builds of \(name): \(id(one)) and \(id(other))"
    case .none: return "two programs: \(name) and \(otherName)"
    }
  }

  private func id(_ module: Module) -> String {
    // As many digits as are told apart at a glance.
    let digits = module.buildID.prefix(6).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    return digits.isEmpty ? "one without a build id" : "build id \(digits)…"
  }
}
