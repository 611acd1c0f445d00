# How Troupe's targets are made: one static library per folder, with its own include root, so that
# including a header of a layer that the folder does not link does not compile.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set_property(GLOBAL PROPERTY USE_FOLDERS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
find_program(TROUPE_CCACHE ccache)
if(TROUPE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${TROUPE_CCACHE})
endif()

# Warnings and sanitizers shared by every target of the project.
add_library(troupe_options INTERFACE)
target_compile_options(troupe_options INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor
                       $<$<BOOL:${TROUPE_WERROR}>:-Werror>)
# GCC 12 sees overlaps in `"text" + std::string` that are not there (GCC bug 105651).
# Likewise members of strings in aggregates made from braces "may be uninitialized" (GCC bug 105562).
target_compile_options(troupe_options INTERFACE "$<$<CXX_COMPILER_ID:GNU>:-Wno-restrict;-Wno-maybe-uninitialized>")
# Nobody replaces our functions at load time: calls within a file may be inlined although the code is
# position-independent. A call is a tenth fewer instructions.
target_compile_options(troupe_options INTERFACE -fno-semantic-interposition)
# No string instructions for what is copied or zeroed in a few moves: they begin with a wait for all earlier stores,
# which after a message has been written to another core's cache lines takes as long as the message.
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  target_compile_options(troupe_options INTERFACE
    "$<$<CXX_COMPILER_ID:GNU>:-mmemset-strategy=unrolled_loop:512:noalign,libcall:-1:noalign>"
    "$<$<CXX_COMPILER_ID:GNU>:-mmemcpy-strategy=unrolled_loop:512:noalign,libcall:-1:noalign>")
endif()
# Builds that look for faults have the assertions, those of the loop's turn among them.
if(TROUPE_SANITIZE OR TROUPE_FUZZ)
  foreach(language C CXX)
    foreach(kind RELEASE RELWITHDEBINFO MINSIZEREL)
      string(REGEX REPLACE "[/-]D *NDEBUG" "" CMAKE_${language}_FLAGS_${kind} "${CMAKE_${language}_FLAGS_${kind}}")
    endforeach()
  endforeach()
endif()
if(TROUPE_SANITIZE)
  target_compile_options(troupe_options INTERFACE -fsanitize=${TROUPE_SANITIZE} -fno-omit-frame-pointer -g1)
  target_link_options(troupe_options INTERFACE -fsanitize=${TROUPE_SANITIZE})
  target_compile_definitions(troupe_options INTERFACE TROUPE_SANITIZER="${TROUPE_SANITIZE}")
  if(TROUPE_SANITIZE STREQUAL "thread")
    target_compile_options(troupe_options INTERFACE -Wno-tsan)  # GCC: atomic_thread_fence in headers
  endif()
endif()

if(TROUPE_FUZZ)
  target_compile_options(troupe_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined
                         -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1)
  target_link_options(troupe_options INTERFACE -fsanitize=address,undefined)
endif()

# troupe_library(<folder> [PUBLIC <targets>...] [PRIVATE <targets>...])
#
# Makes the static library troupe_<folder> (alias troupe::<folder>) from every src/**/*.cpp below the
# calling folder, with include/troupe/<folder>/*.hpp as its public headers. PUBLIC targets are those
# whose headers the public headers include; PRIVATE ones are seen by the sources alone. src/cuda/ is left out where
# there is no CUDA, src/no_cuda/ where there is.
function(troupe_library folder)
  cmake_parse_arguments(ARG "" "" "PUBLIC;PRIVATE;SOURCES" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/*.cpp)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/include/*.hpp)
  if(TROUPE_WITH_CUDA)
    list(FILTER sources EXCLUDE REGEX "/src/no_cuda/")
  else()
    list(FILTER sources EXCLUDE REGEX "/src/cuda/")
  endif()
  set(target troupe_${folder})
  add_library(${target} STATIC ${sources} ${ARG_SOURCES})
  add_library(troupe::${folder} ALIAS ${target})
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON
                        VERIFY_INTERFACE_HEADER_SETS ON LINKER_LANGUAGE CXX)
  target_sources(${target} PUBLIC FILE_SET HEADERS
                 BASE_DIRS ${CMAKE_CURRENT_SOURCE_DIR}/include FILES ${headers})
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_link_libraries(${target} PUBLIC ${ARG_PUBLIC} PRIVATE $<BUILD_INTERFACE:troupe_options> ${ARG_PRIVATE})
  if(TROUPE_INSTALL)
    troupe_install_library(${folder})
  endif()
endfunction()

# troupe_program(<name> SOURCES <files>... [LINK <targets>...])
# Makes an executable in <build>/bin.
function(troupe_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE troupe_options ${ARG_LINK})
endfunction()

# troupe_test(<name> [LINK <targets>...] [INCLUDE <dirs>...] [TIMEOUT <seconds>] [LABELS <labels>...] [OPTIMIZED])
#
# Makes the doctest program test_<name> from every *.cpp of the calling folder (not of those below it)
# and registers each of its test cases with CTest. A test must end by itself; TIMEOUT (120 s) is the
# bound past which CTest ends it and counts it as failed. In a release build only the libraries are optimized, and
# tests that are OPTIMIZED because they compute: most tests wait more than they run, and compile in half the time.
function(troupe_test name)
  cmake_parse_arguments(ARG "OPTIMIZED" "TIMEOUT" "LINK;INCLUDE;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(test_${name} ${sources})
  target_link_libraries(test_${name} PRIVATE troupe_options doctest::doctest troupe_test_main ${ARG_LINK})
  target_include_directories(test_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests ${ARG_INCLUDE})
  if(NOT ARG_OPTIMIZED)
    target_compile_options(test_${name} PRIVATE $<$<CONFIG:Release>:-O0>)
  endif()
  doctest_discover_tests(test_${name} TEST_PREFIX "${name}: "
                         PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${name};${ARG_LABELS}"
                                    SKIP_REGULAR_EXPRESSION "MESSAGE:.skipped:.")
endfunction()
