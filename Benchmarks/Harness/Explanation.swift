// SPDX-License-Identifier: Apache-2.0
// The part of docs/benchmarks.md that tells what was measured and how.

extension Report {
  static let explanation = """
    ## What the rows are

    - **malloc(64) + free**: the pair, in a loop. **pair at depth 5**: with five return addresses on the stack, those of
      libc's start included. **churn**: random replacement among live blocks of 16 to 527 bytes. **two threads**: one
      pair and one replacement among 1,000 blocks, in each of two threads, each on its own processor. **realloc**: a
      buffer that grows by half from 16 bytes to 64 KiB. **1 MiB blocks**: random replacement among 16. **thread start +
      join**: each thread allocates and frees one block. Each program does nine batches after a warm-up and tells the
      median batch. The blocks are not written to (but for one byte of each 1 MiB), so the ratios are those of the calls
      alone.
    - A round runs the short programs, the captures too, two or three times, in turns, and takes the least time of each
      variant: what disturbs a program only slows it down. heaptrack is run once, as are all in the rows churn with a
      million blocks, realloc and 1 MiB blocks.
    - **cost ÷ heaptrack's**: the agent's time over plain, divided by heaptrack's time over plain. heaptrack is
      preloaded and records to a file in memory: its interpreter, which usually runs beside the program, costs nothing
      here.
    - **pair, off − a build without**: the agent with events off, less the same agent built without them
      (ALLOCS_WITHOUT_EVENTS). **on − off**: they are on and nobody reads. **lossless into a file**: the server's drain
      loop on another processor records every event into a file on tmpfs, and the target waits for it where it must; the
      benchmark fails if one is missing.
    - **sqlite3** runs [a script](../Benchmarks/Programs/tables.sql) on a database in memory, **python3** [a
      loop](../Benchmarks/Programs/json_loop.py) that writes and reads JSON, with PYTHONMALLOC=malloc. Both have one
      thread and wait for nothing, so their time is their processor time, user and system, from start to exit: elapsed
      time would add what other programs took. **redis**: a fixed number of SET and GET by redis-benchmark, 16 in a
      pipeline, server and client each on its own processor: the time that passes, and the server's processor time for
      the same requests, which the wait for the client doesn't hide.
    - **two stores a malloc**: the same churn with [a shim](../Benchmarks/Programs/floor.c) preloaded that does nothing
      but write and clear a slot by the block's address: what no exact index by address can be below.
    - **compileall** compiles five packages of CPython's library, **git log -p** prints the changes of a repository of
      600 commits that the benchmark makes, **g++** compiles [templates](../Benchmarks/Programs/templates.cpp), and
      **Octave** runs [a script](../Benchmarks/Programs/evaluate.m), each by processor time. **evaluator** is
      [a program](../Benchmarks/Programs/evaluator.c) whose functions call each other in random order, as those of an
      interpreter do: nearly every stack is new. *a new frame* is what whole stacks cost more than call sites, divided
      by the number of frames that are new to the index, counted in it. *whole stacks − call sites* is the difference
      of two ratios; *its own memory* is what is resident in redis beside the index.
    - **Capture of a call stack**: [the program](../Benchmarks/Programs/capture.c) calls malloc and free with 25 return
      addresses on the stack (the recorded stack is checked to have as many, in code without frame pointers). A capture
      costs its time with full stacks less its time with call sites, in the same round. **same stack**: always the same
      call. **unw_backtrace**: libunwind's, in a plain program at the same depth, on the same stack each time. **5
      innermost frames other**: eight chains of five functions in turns; all outside them is the same. **new stack**: no
      stack comes twice, and two follow each other that have only the five outermost frames in common, but each return
      address was seen before. The frames below the first one that differs are then all new to the index, which has to
      write a node for each (75 thousand in all, checked); the cost is divided by their number alone, though one more
      frame is unwound. **known**: 16 stacks in turns that differ as much, but are all in the index already.
    - **segment, N-byte blocks**: blocks of the segment's file on its file system, less those of an idle process,
      divided by the number of live allocations. Here and below, the agent records full stacks.
    - **look-ups** are timed one at a time, among 100,000 random ones, in a mapped segment of a live process, without
      symbols; every answer is checked. *with neighbours* also finds the nearest live allocations below and above. *1
      TiB into a block* is a segment that was written for the purpose. *free, above N freed*: all blocks but the lowest
      were freed, and the nearest live one is searched from the top.
    - **top**, **snapshot**, **diff** and **memory** are whole commands of allocsctl, from start to end, of a process
      whose blocks were allocated by 1,000 call stacks in turns; without a server. The process of **memory** has 4 GiB
      resident. **server, 1 M watched**: `GET …/top` once a second, the processor time of all of allocsd's processes.
      **pprof of python3**: `GET …/profile?format=pprof` on a kept connection, of a program with PYTHONMALLOC=malloc
      that holds objects, after the first such request, which reads the symbols.
    - **query from nothing** is the command `allocsctl query`, from its start to its end, without a server.
    - **query** is `GET …/query?address=…` with symbolized stacks, **batch** `POST …/query?stacks=false`; both through
      allocsd on a Unix socket, of a process with a million live allocations.
    - **query of one user** is about one of a thousand blocks; **server at rest** is the memory of all of allocsd's
      processes after one question, pages that several share counted in parts. *before*: of an older build
      (`ALLOCS_BEFORE=DIR`), whose server runs beside this one and is asked in turns with it; *more than before* is the
      median over the rounds.

    - **recorded** is the python3 loop of above with whole call stacks and `allocsctl record --zstd` beside it, on the
      other processor, from as soon as it can be attached to: the time that passes until the program has ended, over
      plain, since a program that waits for its recorder uses no processor. heaptrack's is as above: preloaded, and
      nobody interprets what it writes. Its file is that output, interpreted and compressed as its script does it.

    - **page of 1M live** is the page in Chromium without a window, of [a program](../Tests/Page/stacks.c) with a
      million live blocks from 20,000 call stacks, opened anew in each of 7 rounds, by a server that knows the names:
      seconds until the process's facts are there, and until its flame graph is painted. **a zoom** into that or out
      again, in turns: how long the longest frame of a zoom was painted (60 a second leave 16.7 ms for one), and how
      many there were a second, by the browser's own times of frames. Where Chromium is missing, the rows say so.

    - **instructions** are counted by valgrind's callgrind, as differences of two runs that differ in their length
      alone: they are the same on a busy machine. [Benchmarks/instructions.txt](../Benchmarks/instructions.txt) says
      what each row is and what it may take; the bar is 3 % above that number. `make bench-check` compares just these
      rows, in two minutes. **python3 JSON, a capture**: with whole stacks less with call sites, in the loop of above;
      it has no bar, because each version of python3 is another program.

    Run it: `make bench`, or `Benchmarks/run --help` for single ones, fewer rounds, JSON.

    """
}
