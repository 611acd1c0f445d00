# What `cmake --install` puts where, and the Debian packages that CPack makes of it:
#
# troupe_install_library(<folder>): a library of Troupe's with its public headers, for find_package(Troupe).
# troupe_install(): the command `troupe`, and what finds the libraries: TroupeConfig.cmake and troupe.pc.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(TROUPE_MAINTAINER "The authors of Troupe <authors@troupe.invalid>" CACHE STRING "Whom Debian packages name")
set(TROUPE_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/Troupe)

function(troupe_install_library folder)
  set_target_properties(troupe_${folder} PROPERTIES EXPORT_NAME ${folder})
  install(TARGETS troupe_${folder} EXPORT TroupeTargets
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev
          FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)
endfunction()

# The library for C, with its header and pkg-config's file.
function(troupe_install_c target)
  install(TARGETS ${target} EXPORT TroupeTargets
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT c NAMELINK_COMPONENT dev
          FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)
  configure_file(${PROJECT_SOURCE_DIR}/bindings/c/troupe-c.pc.in ${PROJECT_BINARY_DIR}/install/troupe-c.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/install/troupe-c.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dev)
endfunction()

function(troupe_install)
  set(TROUPE_INSTALLED_FOLDERS ${TROUPE_FOLDERS})
  if(TARGET troupe_c)
    list(APPEND TROUPE_INSTALLED_FOLDERS c)
  endif()
  configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/TroupeConfig.cmake.in
                                ${PROJECT_BINARY_DIR}/install/TroupeConfig.cmake
                                INSTALL_DESTINATION ${TROUPE_CMAKE_DIR} NO_SET_AND_CHECK_MACRO)
  # Before 1.0 each minor version may break what the last one had.
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/install/TroupeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/install/TroupeConfig.cmake ${PROJECT_BINARY_DIR}/install/TroupeConfigVersion.cmake
                ${PROJECT_SOURCE_DIR}/cmake/TroupeBlas.cmake ${PROJECT_SOURCE_DIR}/cmake/TroupeCaf.cmake
          DESTINATION ${TROUPE_CMAKE_DIR} COMPONENT dev)
  install(EXPORT TroupeTargets NAMESPACE troupe:: DESTINATION ${TROUPE_CMAKE_DIR} COMPONENT dev)

  # In the order in which a linker wants static libraries: users first.
  foreach(folder training tools actors shards rpc kernels runtime)
    if(folder IN_LIST TROUPE_FOLDERS)
      string(APPEND TROUPE_PC_LIBRARIES " -ltroupe_${folder}")
    endif()
  endforeach()
  if(TROUPE_WITH_CUDA)
    set(TROUPE_PC_CUDA " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static")
  endif()
  configure_file(${PROJECT_SOURCE_DIR}/cmake/troupe.pc.in ${PROJECT_BINARY_DIR}/install/troupe.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/install/troupe.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dev)
  if(TARGET troupe)
    install(TARGETS troupe RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
  endif()
  troupe_packages()
endfunction()

# What Debian wants to know of a package <name>: its changelog and whose it is.
function(troupe_package_documents component name)
  set(folder ${PROJECT_BINARY_DIR}/install/${name})
  configure_file(${PROJECT_SOURCE_DIR}/cmake/debian-changelog.in ${folder}/changelog @ONLY)
  file(COPY_FILE ${PROJECT_SOURCE_DIR}/cmake/debian-copyright ${folder}/copyright ONLY_IF_DIFFERENT)
  execute_process(COMMAND gzip -9nkf ${folder}/changelog COMMAND_ERROR_IS_FATAL ANY)
  install(FILES ${folder}/changelog.gz ${folder}/copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${name}
          COMPONENT ${component})
endfunction()

# `./dev package`: troupe, the command; libtroupe-c0, the library for C, named after its SONAME; and libtroupe-dev.
function(troupe_packages)
  troupe_package_documents(runtime troupe)
  troupe_package_documents(dev libtroupe-dev)
  file(STRINGS ${PROJECT_SOURCE_DIR}/cmake/packages.txt needed REGEX "^[a-z]")
  set(CPACK_GENERATOR DEB)
  set(CPACK_PACKAGE_NAME troupe)
  set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
  set(CPACK_PACKAGE_CONTACT ${TROUPE_MAINTAINER})
  set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
  set(CPACK_STRIP_FILES ON)
  set(CPACK_COMPONENTS_ALL runtime dev)
  if(TARGET troupe_c)
    set(c_package libtroupe-c${PROJECT_VERSION_MAJOR})
    troupe_package_documents(c ${c_package})
    list(APPEND CPACK_COMPONENTS_ALL c)
    set(CPACK_DEBIAN_C_PACKAGE_NAME ${c_package})
    set(CPACK_DEBIAN_C_PACKAGE_SECTION libs)
    set(CPACK_DEBIAN_C_PACKAGE_SHLIBDEPS ON)
    set(CPACK_DEBIAN_C_PACKAGE_GENERATE_SHLIBS ON)
    set(CPACK_DEBIAN_C_DESCRIPTION
        "actor-based RPC runtime for parameter servers (library for C)\n Nodes, calls, actors, tensors and tables for programs in C and in languages\n that can call C.")
    list(APPEND needed "${c_package} (= ${PROJECT_VERSION})")
  endif()
  set(CPACK_DEB_COMPONENT_INSTALL ON)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  set(CPACK_DEBIAN_PACKAGE_SECTION science)

  set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME troupe)
  set(CPACK_DEBIAN_RUNTIME_PACKAGE_SHLIBDEPS ON)
  set(CPACK_DEBIAN_RUNTIME_DESCRIPTION
      "command for actor-based training jobs\n Starts and watches the processes of a job, shows what they do, and looks into\n checkpoints.")

  set(CPACK_DEBIAN_DEV_PACKAGE_NAME libtroupe-dev)
  set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
  list(JOIN needed ", " needed)
  set(CPACK_DEBIAN_DEV_PACKAGE_DEPENDS ${needed})
  set(CPACK_DEBIAN_DEV_PACKAGE_SUGGESTS troupe)
  set(CPACK_DEBIAN_DEV_DESCRIPTION
      "actor-based RPC runtime for parameter servers (headers and libraries)\n Named actors that hold shards of parameter tables, with the optimizer beside\n the rows, called over shared memory, TCP or UCX.")
  include(CPack)
endfunction()
