// SPDX-License-Identifier: Apache-2.0
// The command mark: gives a moment of a process a name. The mark is set by this program itself, with the rights of who
// runs it; a server reads marks and sets none.

import Answers
import ArgumentParser
import SystemAccess

struct MarkCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "mark",
    abstract: "Give this moment of a process a name, for --since and --until; or list its marks.",
    usage: """
      allocsctl mark <pid> <name> [--remove]
      allocsctl mark <pid> [--json] [--socket <path> | --direct]
      """,
    discussion: """
      A mark's name stands for its moment wherever a command or the server's API takes one. It is a letter, then \
      letters, digits, ., _ or -. A name that exists is moved to this moment. Marks are kept with the process's index \
      and go with it; a process may have 32.

      Examples:
        allocsctl mark 4242 before-load
        allocsctl top 4242 --since before-load
        allocsctl mark 4242
        allocsctl mark 4242 before-load --remove
      """)

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Argument(help: "The mark's name. Without one, the marks are listed.")
  var name: String?

  @Flag(help: "Remove the mark.")
  var remove = false

  @Flag(help: "List the marks as one JSON object.")
  var json = false

  @OptionGroup var options: SourceOptions

  func validate() throws {
    if remove, name == nil { throw ValidationError("--remove needs the name of a mark.") }
    if json, name != nil { throw ValidationError("--json lists marks, and takes no name.") }
    if name != nil, options.direct || options.socket != nil {
      throw ValidationError("a mark is set and removed by this program itself: leave out --socket and --direct.")
    }
  }

  func run() throws {
    guard let name else {
      try StandardOutput.write(try options.source().marks(of: pid, json: json))
      return
    }
    let view = try ProcessView(pid: pid)
    if remove {
      try view.removeMark(name)
      return
    }
    if let age = try view.setMark(name) {
      complain("the mark \(name) is moved: it was set \(Units.duration(age)) ago")
    }
  }
}
