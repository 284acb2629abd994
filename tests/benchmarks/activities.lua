-- Requests of wrk: one activity after the other, each with an id of its own. Arguments: file of the message, first number.
local threads = 0

function setup(thread)
  thread:set("thread", threads)
  threads = threads + 1
end

function init(arguments)
  local file = io.open(arguments[1], "rb")
  local message = file:read("*a")
  file:close()
  local head = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, message)
  local start, stop = head:find("IDENTIFIER", 1, true)
  before, after = head:sub(1, start - 1), head:sub(stop + 1)
  count = tonumber(arguments[2])
end

function request()
  count = count + 1
  return before .. string.format("%02x%08x", thread, count) .. after
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "refused": %d, "failed": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
