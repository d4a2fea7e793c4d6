// SPDX-License-Identifier: Apache-2.0
// Arguments and options that several commands have.

import Answers
import ArgumentParser
import Provenance
import SystemAccess

/// A process id on the command line.
func processID(_ text: String) throws -> Int32 {
  guard let id = parseProcessID(text) else { throw ValidationError("a process id is a positive number") }
  return id
}

/// Functions that are passed over in the search for allocation sites.
struct WrapperOptions: ParsableArguments {
  @Option(
    help: .init(
      "Pass over functions with this name, too, in the search for who allocated; * and ? stand for any characters.",
      valueName: "pattern"))
  var wrapper: [String] = []

  /// The patterns. Throws if one of them is no pattern.
  func patterns() throws(Complaint) -> [String] {
    do throws(Complaint) {
      _ = try Wrappers.standard.adding(wrapper)
    } catch {
      var error = error
      error.what = "--wrapper: \(error.what)"
      throw error
    }
    return wrapper
  }
}

/// The one group of blocks that a question is about.
struct GroupOption: ParsableArguments {
  @Option(
    help: .init(
      "Only blocks of one group: GROUP:KEY, with the key of a row of `top --group GROUP --json`.", valueName: "group"))
  var within: String?

  func name() throws(Complaint) -> GroupName? {
    try within.map { text throws(Complaint) in try GroupName(text) }
  }
}

/// The level at which suballocations are shown.
struct LevelOptions: ParsableArguments {
  @Option(
    help: .init(
      """
      Where a pool hands out parts of a chunk: show its blocks (block), or the chunk (chunk). \
      (Default: as ALLOCS_LEVEL said when the process was started, else block.)
      """, valueName: "block|chunk"))
  var level: Level?
}

extension Level: ExpressibleByArgument {}

extension Perspective {
  /// The perspective that the options ask for; where they are silent, that of ALLOCS_WRAPPERS and ALLOCS_LEVEL, or of
  /// the configuration file that applies.
  init(_ wrappers: WrapperOptions, _ level: LevelOptions? = nil) throws(Complaint) {
    let patterns = try wrappers.patterns()
    let configured = try Configuration.ofReader()
    let wrappers = configured.wrappers + patterns  // bounded: lists of texts
    self.init(wrappers: wrappers, level: level?.level ?? configured.level)
  }
}
