-- POST the bodies of a folder in turn, and print one line of JSON. BODIES, COUNT, URL_PATH and CONTENT_TYPE are variables.
local bodies, path, content_type = os.getenv("BODIES"), os.getenv("URL_PATH"), os.getenv("CONTENT_TYPE")
local requests, turn = {}, 0

function init()
  for number = 1, tonumber(os.getenv("COUNT")) do
    local file = assert(io.open(bodies .. "/" .. number, "rb"))
    requests[number] = wrk.format("POST", path, {["Content-Type"] = content_type}, file:read("*a"))
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "not_2xx": %d, "broken": %d, "p50": %f, "p99": %f}\n',
    summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
