// What it costs more to hook an allocator at its entries than to be called in its place: one program and one allocator,
// once in the program itself, in several layouts of it whose mean counts, and once as a shared library below the agent.

import Measurement

let entryBenchmark = Benchmark(name: "entry", part: .time) { workshop in
  guard workshop.options.agent != nil else { return [] }
  let operations = workshop.options.quick ? "100000" : "300000"
  let allocator = try workshop.program(
    "allocator", as: "liballocator.so", options: ["-shared", "-fPIC", "-fno-builtin"])
  // Where a program's malloc lies in its cache lines costs or saves half a nanosecond, and is up to the program's linker.
  let layouts = [["-falign-functions=16"], ["-falign-functions=32"], ["-falign-functions=64"], ["-no-pie"]]
  let hooked = try layouts.enumerated().map { index, layout in
    Command(
      program: try workshop.program(
        "pair", as: "pair-hooked-\(index)", options: layout + ["-fno-builtin", workshop.source("allocator.c")]),
      arguments: [operations], processor: processors.last)
  }
  let interposed = Command(
    program: try workshop.program("pair", as: "pair-interposed", options: [allocator]), arguments: [operations],
    processor: processors.last)
  func fastest(_ command: Command, _ variant: Variant) throws -> Double {
    defer { workshop.cleanUp() }
    return try LoopTime(of: command, under: variant, in: workshop).nanoseconds(in: workshop)
  }
  // In turns, and the least of each: a difference of two times varies by more than either.
  let rounds = try Rounds(workshop.options.roundCount, of: [.plain, .site, .full], repeats: [:]) { variant in
    var least = (hooked: hooked.map { _ in Double.infinity }, interposed: Double.infinity)
    for _ in 0..<5 {
      for (index, command) in hooked.enumerated() {
        least.hooked[index] = min(least.hooked[index], try fastest(command, variant))
      }
      least.interposed = min(least.interposed, try fastest(interposed, variant))
    }
    return least.hooked.reduce(0, +) / Double(hooked.count) - least.interposed
  }
  var rows: [Row] = []
  for (variant, name) in [
    (Variant.plain, "pair, own malloc − a library's, plain"), (.site, "  hooked at entry − interposed"),
    (.full, "  the same, whole stacks"),
  ] {
    guard let spread = Spread(rounds.values[variant] ?? []) else { continue }
    rows.append(Row(name: name, unit: "ns", value: .spread(spread), bar: variant == .plain ? nil : .atMost(1.5)))
  }
  return rows
}
