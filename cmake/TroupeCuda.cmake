# CUDA: used where its toolkit is, compiled to nothing where it is not. Sets TROUPE_WITH_CUDA, and makes
#
# troupe::cuda: the CUDA runtime, linked statically: a program of ours starts on machines without a GPU, too.
# troupe_cuda_sources(<folder>): compiles every src/**/*.cu of the calling folder into troupe_<folder>.

set(TROUPE_WITH_CUDA OFF)
if(NOT TROUPE_CUDA STREQUAL "OFF" AND NOT TROUPE_FUZZ)
  find_program(CMAKE_CUDA_COMPILER nvcc HINTS ENV CUDA_PATH /usr/local/cuda/bin PATH_SUFFIXES bin)
  if(CMAKE_CUDA_COMPILER)
    # Machine code for A100 and H100/H200, and PTX, of which drivers make code for what comes after them.
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90 CACHE STRING "GPUs to compile for")
    if(TROUPE_CCACHE)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${TROUPE_CCACHE})
    endif()
    enable_language(CUDA)
    # CMake 3.25 does not know that nvcc has this dialect; newer ones do, and say it the same way.
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA_STANDARD 20)
    find_package(CUDAToolkit REQUIRED)
    set(TROUPE_WITH_CUDA ON)
  elseif(TROUPE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "TROUPE_CUDA is ON, but there is no nvcc on the path nor in /usr/local/cuda/bin")
  endif()
endif()
message(STATUS "CUDA: ${TROUPE_WITH_CUDA}")

add_library(troupe::cuda INTERFACE IMPORTED GLOBAL)
if(TROUPE_WITH_CUDA)
  target_link_libraries(troupe::cuda INTERFACE CUDA::cudart_static)
  target_include_directories(troupe::cuda INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
endif()

function(troupe_cuda_sources folder)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/*.cu)
  if(NOT TROUPE_WITH_CUDA OR NOT sources)
    return()
  endif()
  set(target troupe_${folder}_cuda)
  add_library(${target} OBJECT ${sources})
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/include ${CMAKE_CURRENT_SOURCE_DIR}/src)
  # Host code's warnings are errors, as everywhere; -lineinfo lets profilers and the memory checker name lines.
  target_compile_options(${target} PRIVATE -lineinfo --expt-relaxed-constexpr
                         -diag-suppress=177  # of variables in the other branch of an if constexpr
                         -Xcompiler=-Wall,-Wextra,-Wno-unused-parameter$<$<BOOL:${TROUPE_WERROR}>:,-Werror>)
  target_sources(troupe_${folder} PRIVATE $<TARGET_OBJECTS:${target}>)
endfunction()
