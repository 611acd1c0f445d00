# troupe::blas: OpenBLAS, that of POSIX threads. Installed beside TroupeConfig.cmake, which includes it, too.

find_library(OPENBLAS_LIBRARY openblas PATH_SUFFIXES openblas-pthread ${CMAKE_LIBRARY_ARCHITECTURE}/openblas-pthread REQUIRED)
find_path(OPENBLAS_INCLUDE cblas.h PATH_SUFFIXES openblas ${CMAKE_LIBRARY_ARCHITECTURE} openblas-pthread REQUIRED)

add_library(troupe::blas INTERFACE IMPORTED GLOBAL)
target_include_directories(troupe::blas INTERFACE ${OPENBLAS_INCLUDE})
target_link_libraries(troupe::blas INTERFACE ${OPENBLAS_LIBRARY})
