-- POST the bodies of a folder in turn and print one line of JSON.
-- Environment variables: BODIES, COUNT, URL_PATH, CONTENT_TYPE, JSON_LENGTH, LUMPS.
-- JSON_LENGTH is the header of the Open Inference Protocol for binary tensors.
-- With LUMPS the rate is measured between the first and the last answer. Use it for slow servers,
-- whose answers come in batches. It costs CPU time, so fast servers are measured without it.
local bodies, path = os.getenv("BODIES"), os.getenv("URL_PATH")
local content_type = os.getenv("CONTENT_TYPE")
local requests, turn, loader = {}, 0, nil

function setup(thread)
  loader = thread
end

function init()
  for number = 1, tonumber(os.getenv("COUNT")) do
    local file = assert(io.open(bodies .. "/" .. number, "rb"))
    local headers = {
      ["Content-Type"] = content_type,
      ["Inference-Header-Content-Length"] = os.getenv("JSON_LENGTH"),
    }
    requests[number] = wrk.format("POST", path, headers, file:read("*a"))
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

if os.getenv("LUMPS") then
  local ffi = require("ffi")
  ffi.cdef("typedef struct { long seconds, nanoseconds; } moment;")
  ffi.cdef("int clock_gettime(int, moment *);")
  local moment = ffi.new("moment")
  first, last, answered = 0, 0, 0

  local function microseconds()
    ffi.C.clock_gettime(1, moment) -- CLOCK_MONOTONIC
    return tonumber(moment.seconds) * 1e6 + tonumber(moment.nanoseconds) / 1e3
  end

  function response(status)
    local now = microseconds()
    if first == 0 then
      first, last = now, now
    elseif now - first > 20000 and status < 300 then -- answers of the first batch
      last, answered = now, answered + 1
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  local answered = summary.requests - errors.status
  local good, microseconds = answered, summary.duration
  if os.getenv("LUMPS") then
    good = loader:get("answered")
    microseconds = math.max(1, loader:get("last") - loader:get("first"))
  end
  io.write(string.format(
    'RESULT {"answered": %d, "images_per_second": %f, "failed": %d, "p50": %f, "p99": %f}\n',
    answered, good / microseconds * 1e6, failed,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
