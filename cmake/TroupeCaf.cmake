# CAF: Debian's 0.17, or another in TROUPE_CAF_ROOT. Only actors/ minds which: see its caf_compat.hpp.
#
# troupe::caf: the core library. troupe::caf_io: its I/O module, which only a test uses; missing where an own CAF was
# built without. Installed beside TroupeConfig.cmake, which includes it, too.

set(TROUPE_CAF_ROOT "" CACHE PATH "Where another CAF than Debian's 0.17 is installed, /opt/caf for instance; empty: Debian's")
if(TROUPE_CAF_ROOT)
  set(where PATHS ${TROUPE_CAF_ROOT} NO_DEFAULT_PATH PATH_SUFFIXES)
  find_library(CAF_IO_LIBRARY caf_io ${where} lib lib64)
else()
  set(where PATH_SUFFIXES)
  find_library(CAF_IO_LIBRARY caf_io REQUIRED)
endif()
find_library(CAF_CORE_LIBRARY caf_core REQUIRED ${where} lib lib64)
find_path(CAF_INCLUDE caf/all.hpp REQUIRED ${where} include)

add_library(troupe::caf INTERFACE IMPORTED GLOBAL)
target_include_directories(troupe::caf INTERFACE ${CAF_INCLUDE})
target_link_libraries(troupe::caf INTERFACE ${CAF_CORE_LIBRARY} Threads::Threads)
if(CAF_IO_LIBRARY)
  add_library(troupe::caf_io INTERFACE IMPORTED GLOBAL)
  target_link_libraries(troupe::caf_io INTERFACE troupe::caf ${CAF_IO_LIBRARY})
endif()
if(TROUPE_CAF_ROOT)
  message(STATUS "CAF: ${CAF_CORE_LIBRARY}, ${CAF_INCLUDE}")
  # What 1.0 would have written in another way (mail() for send() and request(), handlers of down_msg) is the only
  # way there is in 0.17.
  target_compile_options(troupe::caf INTERFACE -Wno-deprecated-declarations)
endif()
