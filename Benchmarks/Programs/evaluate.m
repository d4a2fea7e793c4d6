% SPDX-License-Identifier: Apache-2.0
% A function that calls itself, conditions and strings: what an interpreter that walks along trees does.
1;
function result = walk (depth, text)
  if (depth == 0)
    result = numel (text);
  elseif (mod (depth, 2) == 0)
    result = walk (depth - 1, [text "a"]) + 1;
  else
    result = walk (depth - 1, text) + numel (strrep (text, "a", "bc"));
  endif
endfunction
total = 0;
for turn = 1:4000
  total = total + walk (mod (turn, 12), "seed");
  values = cell (1, 8);
  for k = 1:8
    values{k} = sprintf ("%d:%d", turn, k);
  endfor
  total = total + numel (strjoin (values, ","));
endfor
printf ("%d\n", total);
