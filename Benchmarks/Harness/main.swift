// SPDX-License-Identifier: Apache-2.0
// allocs-bench: measures the agent against the plain run and heaptrack, and the index's answers, side by side in one
// run.

import Foundation
import Measurement

signal(SIGPIPE, SIG_IGN)

/// Whether all is well.
func run() throws -> Bool {
  let options = try Options(Array(CommandLine.arguments.dropFirst()))
  let workshop = try Workshop(options: options)
  if options.checks { return try check(workshop) }
  let machine = Machine()
  var report = Report(machine: machine, options: options)
  if !options.json { say(machine.lines.joined(separator: "\n")) }
  if options.agent == nil { note("there is no agent beside this program, so only plain and heaptrack are compared") }
  if !workshop.variants.contains(.heaptrack) { note("heaptrack is left out") }
  var part: Benchmark.Part?
  for benchmark in Benchmark.all where options.only.isEmpty || options.only.contains(benchmark.name) {
    for row in try benchmark.run(workshop) {
      report.add(row, to: benchmark.part)
      guard !options.json else { continue }
      if benchmark.part != part { say("\n" + Table.heading(benchmark.part)) }
      part = benchmark.part
      say(Table.line(row))
    }
  }
  say(options.json ? try report.json() : "\n" + report.summary)
  if options.writesPage {
    try report.write()
    if report.missedCount > 0 {
      note("say why bars are missed, in docs/benchmarks.md under '\(handWrittenHeading.drop { "# ".contains($0) })'")
    }
  }
  return true
}

/// Writes a line at once, so that each row is seen when it is measured, in a pipe as well.
func say(_ text: String) { FileHandle.standardOutput.write(Data("\(text)\n".utf8)) }

func note(_ text: String) { FileHandle.standardError.write(Data("allocs-bench: \(text)\n".utf8)) }

do {
  if try !run() { exit(1) }
} catch {
  note("\(error)")
  exit(1)
}
